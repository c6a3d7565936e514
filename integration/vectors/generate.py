#!/usr/bin/env python3
"""Writes vectors.json: known answers of every sealed or authenticated format, by an implementation that shares nothing with the Go code.

It is written after the FORMAT.md files. HMAC and SHA-256 come from Python's standard library, AES-GCM, AES, ChaCha20-Poly1305 and
Argon2id from the package `cryptography` (OpenSSL); HKDF, XAES-256-GCM's derivation and HChaCha20 are spelled out here. Names are those
of the files in the packages' testdata with which TestIndependentVectors compares; the packages' own tests compare these files with what
the code writes. Extents, wrapped keys and segments have scripts of their own beside their vectors.
Usage: python3 generate.py > vectors.json
"""
import base64
import hashlib
import hmac
import json
import os
import struct

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305
from cryptography.hazmat.primitives.kdf.argon2 import Argon2id

ROOT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..")
MASK32 = 0xFFFFFFFF


def mac(key, *parts):
    return hmac.new(key, b"".join(parts), hashlib.sha256).digest()


def hkdf(secret, salt, info, n=32):
    prk = mac(salt or bytes(32), secret)
    out, block = b"", b""
    for i in range(1, n // 32 + 2):
        block = mac(prk, block, info, bytes([i]))
        out += block
    return out[:n]


def aes_block(key, block):
    e = Cipher(algorithms.AES(key), modes.ECB()).encryptor()
    return e.update(block) + e.finalize()


def xaes_seal(key, nonce, plain, aad):
    """XAES-256-GCM of c2sp.org."""
    l = int.from_bytes(aes_block(key, bytes(16)), "big")
    k1 = ((l << 1) ^ (0x87 if l >> 127 else 0)) & ((1 << 128) - 1)
    k1 = k1.to_bytes(16, "big")
    derived = b""
    for i in (1, 2):
        m = struct.pack(">H", i) + b"X\0" + nonce[:12]
        derived += aes_block(key, bytes(a ^ b for a, b in zip(m, k1)))
    return AESGCM(derived).encrypt(nonce[12:], plain, aad)


def hchacha20(key, nonce16):
    s = list(struct.unpack("<16I", b"expand 32-byte k" + key + nonce16))

    def rotl(x, n):
        return ((x << n) | (x >> (32 - n))) & MASK32

    def quarter(a, b, c, d):
        s[a] = (s[a] + s[b]) & MASK32
        s[d] = rotl(s[d] ^ s[a], 16)
        s[c] = (s[c] + s[d]) & MASK32
        s[b] = rotl(s[b] ^ s[c], 12)
        s[a] = (s[a] + s[b]) & MASK32
        s[d] = rotl(s[d] ^ s[a], 8)
        s[c] = (s[c] + s[d]) & MASK32
        s[b] = rotl(s[b] ^ s[c], 7)

    for _ in range(10):
        quarter(0, 4, 8, 12), quarter(1, 5, 9, 13), quarter(2, 6, 10, 14), quarter(3, 7, 11, 15)
        quarter(0, 5, 10, 15), quarter(1, 6, 11, 12), quarter(2, 7, 8, 13), quarter(3, 4, 9, 14)
    return struct.pack("<8I", *s[:4], *s[12:])


def xchacha(key, nonce):
    return ChaCha20Poly1305(hchacha20(key, nonce[:16])), bytes(4) + nonce[16:]


def xchacha_seal(key, nonce, plain, aad):
    aead, n = xchacha(key, nonce)
    return aead.encrypt(n, plain, aad)


def xchacha_open(key, sealed, aad):
    aead, n = xchacha(key, sealed[:24])
    return aead.decrypt(n, sealed[24:], aad)


def words(digest):
    return struct.unpack("<4Q", digest)


def added(*digests):
    total = sum(int.from_bytes(d, "little") for d in digests) % (1 << 256)
    return total.to_bytes(32, "little")


def crc32c(data):
    crc = MASK32
    for b in data:
        crc ^= b
        for _ in range(8):
            crc = (crc >> 1) ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ MASK32


def sealed_rows():
    """fs/kv/sealed."""
    data_key, nonce = b"\x01" * 32, b"ABCDEFGHIJKLMNOPQRSTUVWX"
    key = hkdf(data_key, b"", b"kmsfs fs/kv/sealed rows v1")
    out = []
    for row, value in (
        (b"i\0\0\0\0\0\0\0\x07", b"inode"),
        (b"i\0\0\0\0\0\0\0\x08", b"inode"),
        (b"d", b""),
        (b"x", b"0123456789abcdef" * 16),
    ):
        sealed = b"\x01" + nonce + xaes_seal(key, nonce, value, row)
        out.append({"DataKey": data_key.hex(), "CipherKey": key.hex(), "Nonce": nonce.hex(), "RowKey": row.hex(),
                    "Value": value.hex(), "Sealed": sealed.hex()})
    return out


def ledger_rows():
    """fs/kv/ledger: alice by update 1; bob and a document without id and content by update 2."""
    key = b"\x01" * 32
    ids, sums = (hkdf(key, b"", b"kmsfs fs/kv/ledger " + n + b" v1") for n in (b"ids", b"sums"))
    rows, terms = {}, []
    for kind, name, doc, version in ((b"U", b"alice", b'{"name":"alice"}', 1), (b"U", b"bob", b"x", 2), (b"P", b"", b"", 2)):
        value = b"\x01" + struct.pack(">QH", version, len(name)) + name + doc
        rows[b"L" + kind + mac(ids, kind, name)[:16]] = value
        terms.append(mac(sums, kind, value))
    rows[b"L\0"] = b"\x01" + struct.pack(">QQ", 2, len(terms)) + added(*terms)
    return {"Key": key.hex(), "Rows": [[k.hex(), rows[k].hex()] for k in sorted(rows)]}


def volume_hashes():
    """fs/meta: the keyed hashes."""
    key = VOLUME_KEY
    names, sets = hkdf(key, b"", b"kmsfs name hash v1"), hkdf(key, b"", b"kmsfs row set v1")
    h = int.from_bytes(mac(names, b"n", b"report.txt")[:8], "big") >> 1
    return {
        "name hash of report.txt": "%016x" % max(h, 3),
        "arn hash": mac(names, b"k", b"arn:aws:kms:us-east-1:000000000000:key/x").hex(),
        "set of one": "[%s]" % " ".join("%x" % w for w in words(mac(sets, b"key", b"value"))),
    }


def redo_log():
    """fs/kv/badgerkv/redo."""
    head = b"kmsfredo" + struct.pack("<II", 1, 1) + b"0123456789abcdef" + struct.pack("<QQQQ", 1 << 20, 3, 9, 8) + bytes(12)
    head += struct.pack("<I", crc32c(head))
    records = b""
    for i, payload in enumerate((b"first", b"the second record")):
        body = struct.pack("<IQQQ", len(payload), 3, 9 + i, 7) + payload
        record = struct.pack("<I", crc32c(body)) + body
        records += record + bytes(-len(record) % 8)
    return {"Header": head.hex(), "Records": records.hex()}


def shred_slot():
    """keystore: the shred slot 0, and the material wrapped with its key."""
    root = b"\x07" * 32
    uuid_text = "00112233-4455-6677-8899-aabbccddeeff"
    uuid = bytes.fromhex(uuid_text.replace("-", ""))
    shred_key, material, material_id, nonce = b"\x55" * 32, b"\x66" * 32, b"\x77" * 32, b"\x88" * 12
    m = hkdf(root, b"", b"kmsfs keystore shred slots v1")
    slot = b"\x01" + bytes(7) + uuid + shred_key
    slot += mac(m, b"slot", struct.pack(">I", 0), slot) + bytes(40)
    wrapping = hkdf(root, shred_key, b"kmsfs keystore material v1 " + uuid_text.encode())
    wrapped = nonce + AESGCM(wrapping).encrypt(nonce, material, uuid + material_id)
    return slot.hex(), wrapped.hex()


def audit_file():
    """keystore/audit: a file with one record."""
    key, log_id, nonce = b"\x07" * 32, bytes(range(1, 17)), bytes(range(24))
    event = b'{"eventName":"Decrypt"}'
    seal, chain = hkdf(key, b"", b"kmsfs audit seal v1"), hkdf(key, b"", b"kmsfs audit chain v1")
    link = mac(chain, b"kmsfs audit genesis", log_id)
    head = b"KMSFSAL\0" + struct.pack(">HHI", 1, 0, 128) + log_id + struct.pack(">QQQQ", 1, 1, 0, 0) + link
    head += mac(chain, b"kmsfs audit header", head)
    sealed = nonce + xchacha_seal(seal, nonce, event, log_id + struct.pack(">Q", 1))
    record = struct.pack(">IQ", len(sealed), 1) + sealed
    record += mac(chain, link, record)
    return (head + record).hex()


def root_key_slots():
    """keystore/rootkey: opens the slots of the stored header, seals them again with the same salts and nonces, and authenticates."""
    where = os.path.join(ROOT, "keystore/rootkey/testdata/v1")
    with open(os.path.join(where, "kmsfs.json"), "rb") as f:
        header = json.load(f)
    with open(os.path.join(where, "root.key"), "rb") as f:
        key_file = f.read()
    out = {"slots": []}
    for slot in header["slots"]:
        salt = base64.b64decode(slot["salt"])
        secret = key_file
        if slot["kind"] == "passphrase":
            a = slot["argon2id"]
            secret = Argon2id(salt=salt, length=32, iterations=a["passes"], lanes=a["lanes"], memory_cost=a["memory_kib"]).derive(b"kmsfs vector")
        kek = hkdf(hashlib.sha256(secret).digest(), salt, b"kmsfs/rootkey/slot/v1")
        ad = b"\0".join([b"kmsfs slot", header["store"].encode(), slot["id"].encode(), slot["kind"].encode(), slot.get("name", "").encode()])
        wrapped = base64.b64decode(slot["wrapped"])
        root = xchacha_open(kek, wrapped, ad)
        out["root"] = root.hex()
        out["slots"].append(base64.b64encode(wrapped[:24] + xchacha_seal(kek, wrapped[:24], root, ad)).decode())
    body = {k: v for k, v in header.items() if k != "mac"}
    compact = json.dumps(body, separators=(",", ":"), ensure_ascii=False).encode()
    out["mac"] = base64.b64encode(mac(hkdf(bytes.fromhex(out["root"]), b"", b"kmsfs/rootkey/header-mac/v1"), compact)).decode()
    return out


def epoch_slot(witness):
    """fs: a slot of the epoch file, the 3rd written, of epoch 7, closed in order; with a witness as new stores have it, and without."""
    key = b"\x09" * 32
    body = (b"kmsfsAN2" if witness else b"kmsfsAN1") + struct.pack(">QQB", 3, 7, 1) + witness
    return (body + mac(key, body)).hex()


def derived_keys():
    """cmd/kmsfs: the rooms' keys, of a root key of 32 bytes of 1."""
    return {n: hkdf(b"\x01" * 32, b"", n.encode()).hex() for n in (
        "kmsfs/rows/v1", "kmsfs/ledger/v1", "kmsfs/volume/v1", "kmsfs/anchor/v1", "kmsfs/audit/v1", "kmsfs/keystore/v1")}


VOLUME_KEY = bytes(range(32))

slot0, material0 = shred_slot()
print(json.dumps({
    "fs/kv/sealed/testdata/vectors.json": sealed_rows(),
    "fs/kv/ledger/testdata/vectors.json": ledger_rows(),
    "fs/meta/testdata/vectors.json": volume_hashes(),
    "fs/kv/badgerkv/redo/testdata/vectors.json": redo_log(),
    "keystore/testdata/shred.hex": slot0,
    "keystore/testdata/material.hex": material0,
    "keystore/audit/testdata/example.hex": audit_file(),
    "keystore/rootkey/testdata/v1/kmsfs.json": root_key_slots(),
    "fs/testdata/epoch.hex": epoch_slot(bytes(range(40))),
    "fs/testdata/epoch1.hex": epoch_slot(b""),
    "cmd/kmsfs/testdata/keys.json": derived_keys(),
}, indent=1))

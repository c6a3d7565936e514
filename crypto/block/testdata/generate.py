#!/usr/bin/env python3
"""Writes vectors.json: an implementation of FORMAT.md that shares nothing with the Go code.

HKDF is written out over the standard library's hmac; AES-256-GCM comes from the package
`cryptography` (OpenSSL). Plaintext byte i of an extent is (i*i + i//256 + seed) mod 256. Extents of
up to 200 sealed bytes are given in full, longer ones by SHA-256, with each block's tag besides.
Usage: python3 generate.py > vectors.json
"""
import hashlib
import hmac
import json
import struct

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

SIZE = 4096


def hkdf32(secret, salt, info):
    prk = hmac.new(salt, secret, hashlib.sha256).digest()
    return hmac.new(prk, info + b"\x01", hashlib.sha256).digest()


def seal(data_key, salt, store, inode, extent, plaintext):
    key = hkdf32(data_key, salt, b"kmsfs-block-v1")
    aad = b"KXB\x01" + struct.pack(">I", len(plaintext)) + store + struct.pack(">QQ", inode, extent)
    gcm = AESGCM(key)
    blocks = []
    for i in range(0, len(plaintext), SIZE):
        nonce = bytes(4) + struct.pack(">Q", i // SIZE)
        blocks.append(gcm.encrypt(nonce, plaintext[i:i + SIZE], aad))
    return key, aad, blocks


def seq(start, n):
    return bytes((start + i) % 256 for i in range(n))


vectors = []
for i, length in enumerate([1, 16, 100, 4095, 4096, 4097, 8192, 12345, 262144 + 17]):
    data_key, salt, store = seq(16 * i, 32), seq(16 * i + 100, 16), seq(16 * i + 200, 16)
    inode, extent, seed = 2 + i * 0x0123456789, 1000 + i * 0x1000000000, 11 * i
    plaintext = bytes((j * j + j // 256 + seed) % 256 for j in range(length))
    key, aad, blocks = seal(data_key, salt, store, inode, extent, plaintext)
    sealed = b"".join(blocks)
    v = {
        "length": length,
        "seed": seed,
        "dataKey": data_key.hex(),
        "salt": salt.hex(),
        "store": store.hex(),
        "inode": inode,
        "extent": extent,
        "extentKey": key.hex(),
        "aad": aad.hex(),
        "sealedLength": len(sealed),
        "sha256": hashlib.sha256(sealed).hexdigest(),
        "tags": [b[-16:].hex() for b in blocks],
    }
    if len(sealed) <= 200:
        v["sealed"] = sealed.hex()
    vectors.append(v)
print(json.dumps(vectors, indent=1))

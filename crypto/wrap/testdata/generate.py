#!/usr/bin/env python3
"""Writes vectors.json: an implementation of FORMAT.md that shares nothing with the Go code.

HKDF is written out over the standard library's hmac; AES-256-GCM comes from the package
`cryptography` (OpenSSL). Usage: python3 generate.py > vectors.json
"""
import hashlib
import hmac
import json
import struct

from cryptography.hazmat.primitives.ciphers.aead import AESGCM


def hkdf(secret, salt, info, length):
    prk = hmac.new(salt, secret, hashlib.sha256).digest()
    out, t = b"", b""
    for i in range(1, -(-length // 32) + 1):
        t = hmac.new(prk, t + info + bytes([i]), hashlib.sha256).digest()
        out += t
    return out[:length]


def canonical(context):
    out = struct.pack(">I", len(context))
    for name in sorted(context, key=lambda n: n.encode()):
        for part in (name, context[name]):
            raw = part.encode()
            out += struct.pack(">I", len(raw)) + raw
    return out


def wrap(material, key, material_id, salt, nonce, arn, context, plaintext):
    """A blob: of version 1 if the nonce is None."""
    version = b"1" if nonce is None else b"2"
    derived = hkdf(material, salt, b"kms-wrap-v" + version + arn.encode(), 64)
    wrapkey, commit = derived[:32], derived[32:]
    header = b"KB" + version + b"\x00" + key + material_id + salt + commit + (nonce or b"")
    aad = header + arn.encode() + canonical(context)
    return header + AESGCM(wrapkey).encrypt(nonce or bytes(12), plaintext, aad)


def seq(start, n):
    return bytes((start + i) % 256 for i in range(n))


ARN = "arn:aws:kms:us-east-1:000000000000:key/01234567-89ab-cdef-0123-456789abcdef"
KEY = bytes.fromhex("0123456789abcdef0123456789abcdef")

CASES = [
    ("data key, no context", ARN, {}, seq(0x80, 32)),
    ("data key, object context", ARN, {"aws:s3:arn": "arn:aws:s3:::pay/2026/may.csv"}, seq(0x80, 32)),
    ("several pairs, sorted by bytes", ARN, {"b": "2", "a": "1", "ab": "", "A": "0", "é": "ü"}, seq(1, 32)),
    ("one byte", ARN, {}, b"x"),
    ("longest plaintext", ARN, {"k": "v"}, seq(7, 4096)),
    ("empty ARN", "", {}, seq(3, 16)),
]

vectors = []
for version in 1, 2:
    for i, (name, arn, context, plaintext) in enumerate(CASES):
        material, material_id, salt = seq(16 * i, 32), seq(16 * i + 100, 32), seq(16 * i + 200, 32)
        nonce = seq(16 * i + 50, 12) if version == 2 else None
        blob = wrap(material, KEY, material_id, salt, nonce, arn, context, plaintext)
        vectors.append({
            "name": name if version == 1 else name + ", version 2",
            "material": material.hex(),
            "key": KEY.hex(),
            "materialID": material_id.hex(),
            "salt": salt.hex(),
            "nonce": (nonce or b"").hex(),
            "keyARN": arn,
            "context": context,
            "canonical": canonical(context).hex(),
            "plaintext": plaintext.hex(),
            "blob": blob.hex(),
        })
print(json.dumps(vectors, indent=1, ensure_ascii=False))

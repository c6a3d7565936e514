#!/usr/bin/env python3
"""Writes vectors.json: header blocks and close marks as FORMAT.md has them, built without the Go code.

Usage: python3 generate.py > vectors.json
"""
import json
import struct


def crc32c(data):
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


assert crc32c(b"123456789") == 0xE3069283


def header(number, store, size, version=1, flags=0, reserved=bytes(12)):
    body = b"KMSFSSEG" + struct.pack(">IIQ", version, flags, number) + store + struct.pack(">Q", size) + reserved
    return body + struct.pack(">I", crc32c(body))


def mark(number, end):
    body = b"KMSFSEND" + struct.pack(">QQI", number, end, 0)
    return body + struct.pack(">I", crc32c(body))


STORE = bytes(range(0xA0, 0xB0))
print(json.dumps({
    "headers": [
        {"number": 1, "store": STORE.hex(), "size": 256 << 20, "hex": header(1, STORE, 256 << 20).hex()},
        {"number": 0x123456789ABCDEF, "store": bytes(16).hex(), "size": 8192, "hex": header(0x123456789ABCDEF, bytes(16), 8192).hex()},
    ],
    "unknown": [
        {"why": "version 2", "hex": header(1, STORE, 8192, version=2).hex()},
        {"why": "a flag", "hex": header(1, STORE, 8192, flags=1).hex()},
        {"why": "a reserved byte", "hex": header(1, STORE, 8192, reserved=bytes(11) + b"\x01").hex()},
    ],
    "marks": [
        {"number": 1, "end": 4096, "hex": mark(1, 4096).hex()},
        {"number": 0x123456789ABCDEF, "end": 256 << 20, "hex": mark(0x123456789ABCDEF, 256 << 20).hex()},
    ],
}, indent=1))

# aeskeys.py PID: finds what AES-256 keys are expanded to (FIPS 197, section 5.2: 60 words, each the sum of the one before and the one eight before,
# every fourth of them turned and substituted first) in all memory that a process can write. Prints how many lie in locked pages and
# how many elsewhere, as "LOCKED ELSEWHERE".
import re, sys

WORDS, PIECE, OVERLAP = 60, 1 << 22, 1 << 10
ZEROS = bytes(4096)

def sbox():
    box, p, q = [0x63] * 256, 1, 1
    while True:
        p ^= (p << 1) ^ (0x11b if p & 0x80 else 0)  # times 3
        p &= 0xff
        q ^= q << 1  # divided by 3
        q ^= q << 2
        q ^= q << 4
        q &= 0xff
        q ^= 0x09 if q & 0x80 else 0
        box[p] = q ^ (q << 1 | q >> 7) & 0xff ^ (q << 2 | q >> 6) & 0xff ^ (q << 3 | q >> 5) & 0xff ^ (q << 4 | q >> 4) & 0xff ^ 0x63
        if p == 1:
            return box

SBOX = sbox()

def is_schedule(b):
    w = [b[i:i + 4] for i in range(0, 4 * WORDS, 4)]
    rcon = 1
    for i in range(8, WORDS):
        t = w[i - 1]
        if i % 8 == 0:
            t = bytes(SBOX[x] for x in t[1:] + t[:1])
            t, rcon = bytes([t[0] ^ rcon]) + t[1:], rcon << 1
        elif i % 8 == 4:
            t = bytes(SBOX[x] for x in t)
        if bytes(x ^ y for x, y in zip(t, w[i - 8])) != w[i]:
            return False
    return True

def schedules(data):
    """Offsets of whole schedules in memory order, which is that of processors with instructions for AES."""
    # Three words in a row that are the sum of their neighbour and the word eight before: words 9 to 11 of a schedule are.
    d = int.from_bytes(data, "little")
    sums = (d ^ d >> 7 * 32 ^ d >> 8 * 32).to_bytes(len(data), "little")  # word i: w[i] + w[i+7] + w[i+8]
    for m in re.finditer(rb"(?=\0{12})", sums):
        at = m.start() - 4  # word 1 of a schedule
        if at >= 0 and at % 4 == 0 and data[at:at + 4 * WORDS].strip(b"\0") and len(data) - at >= 4 * WORDS and is_schedule(data[at:at + 4 * WORDS]):
            yield at

def areas(pid):
    with open("/proc/%s/smaps" % pid) as smaps:
        for line in smaps:
            field = line.split()
            if re.match("[0-9a-f]+-[0-9a-f]+$", field[0]):
                area = field
            elif field[0] == "VmFlags:" and area[1].startswith("rw") and not (area[4] != "0" and area[1].endswith("s")):
                begin, end = (int(x, 16) for x in area[0].split("-"))
                yield begin, end, "lo" in field

def filled(data):
    """What lies between pages of zeros, and where."""
    first = None
    for at in range(0, len(data) + len(ZEROS), len(ZEROS)):
        empty = at >= len(data) or data.startswith(ZEROS, at)
        if empty and first is not None:
            yield first, data[first:at]
            first = None
        elif not empty and first is None:
            first = at

def main(pid):
    assert SBOX[0] == 0x63 and SBOX[0x53] == 0xed
    found = {True: set(), False: set()}
    with open("/proc/%s/mem" % pid, "rb", 0) as mem:
        for begin, end, locked in areas(pid):
            for at in range(begin, end, PIECE):
                try:
                    mem.seek(at)
                    data = mem.read(min(PIECE + OVERLAP, end - at))
                except OSError:
                    continue  # mapped and not readable
                for first, part in filled(data):
                    found[locked].update(at + first + o for o in schedules(part))
    print(len(found[True]), len(found[False]))

if __name__ == "__main__":
    main(sys.argv[1])

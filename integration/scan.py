# scan.py MARKERS WHERE...: looks for secrets. MARKERS has one a line: a name, a tab, the text (hex, if the name ends in _raw). WHERE is a directory, every file of
# which is read, or pid:N, of which all memory that it can write is read. Each secret is looked for as it is, in UTF-16, in hex of
# both cases, and in base64 at each of its three alignments. What begins like the first secret (COMMON bytes) is looked for only where that beginning is.
# Prints what it finds and where, and fails; prints what it read if nothing.
import base64, os, stat, sys

PIECE, OVERLAP = 1 << 22, 1 << 10  # bytes looked at together
ZEROS = bytes(4096)
CLOBBERED = bytes.fromhex("efbeadde") * 1024  # what Go's collector overwrites with
COMMON = 16

def forms(name, text):
    raw = bytes.fromhex(text) if name.endswith("_raw") else text.encode()  # what is no text is given in hex
    if name.endswith("_raw"):
        return {"raw": raw}
    out = {"raw": raw, "UTF-16LE": text.encode("utf-16-le"), "UTF-16BE": text.encode("utf-16-be"),
           "hex": raw.hex().encode(), "HEX": raw.hex().upper().encode()}
    for shift in range(3):  # what stands for whole groups of the text alone
        inner = raw[(3 - shift) % 3:]
        inner = inner[:len(inner) // 3 * 3]
        for name, b in (("base64", base64.b64encode(inner)), ("base64url", base64.urlsafe_b64encode(inner))):
            out["%s+%d" % (name, shift)] = b
    return out

def files(top):
    for where, _, names in os.walk(top):
        for name in names:
            path = os.path.join(where, name)
            yield path + " (its name)", path.encode()
            if not stat.S_ISREG(os.lstat(path).st_mode):
                continue
            fd, at = os.open(path, os.O_RDONLY), 0
            while True:
                try:
                    at = os.lseek(fd, at, os.SEEK_DATA)  # over what was preallocated and never written
                except OSError:
                    break
                data = os.pread(fd, PIECE + OVERLAP, at)
                if not data:
                    break
                yield "%s at %d" % (path, at), data
                at += PIECE
            os.close(fd)

def memory(pid):
    with open("/proc/%s/maps" % pid) as maps, open("/proc/%s/mem" % pid, "rb", 0) as mem:
        for line in maps:
            field = line.split(None, 5)
            if not field[1].startswith("rw") or field[4] != "0" and field[1].endswith("s"):
                continue  # what is shared with a file is in the file
            begin, end = (int(x, 16) for x in field[0].split("-"))
            for at in range(begin, end, PIECE):
                try:
                    mem.seek(at)
                    yield "%s at %x" % (line.strip(), at), mem.read(min(PIECE + OVERLAP, end - at))
                except OSError:
                    pass  # mapped and not readable

lines = [line.rstrip("\n").split("\t", 1) for line in open(sys.argv[1])]
begins = [b for b in forms("", lines[0][1][:COMMON]).values() if len(b) >= 8]
alike, others = {}, {}  # what is looked for: its name and form
for name, text in lines:
    assert len(text) >= 12, "%s is too short to be distinctive" % name
    into = alike if text[:COMMON] == lines[0][1][:COMMON] and len(text) >= COMMON + 8 else others
    into.update({b: (name, form) for form, b in reversed(forms(name, text).items()) if len(b) >= 12})
for b in alike:
    assert any(begin in b for begin in begins)
found = read = 0
for where in sys.argv[2:]:
    for place, data in memory(where[4:]) if where.startswith("pid:") else files(where):
        read += len(data)
        data = data.replace(ZEROS, b"").replace(CLOBBERED, b"")
        wanted = list(others.items()) if data else []
        if any(begin in data for begin in begins):
            wanted += alike.items()
        for b, (name, form) in wanted:
            at = data.find(b)
            if at >= 0:
                found += 1
                around = data[max(0, at - 48):at + len(b) + 48]
                print("%s, as %s, in %s: %r" % (name, form, place, around))
every = {**alike, **others}
print("%d markers in %d forms, %d bytes read, %d found" % (len({n for n, _ in every.values()}), len(every), read, found))
sys.exit(found > 0 or read < 1 << 20)

#!/usr/bin/env bash
# Two mounts of one store are two kernels' worth of caches; what a call did on one is what the next call on the other sees.
. "$(dirname "$0")/lib.sh"
needs_root

new_store
# A second principal bound to root's uid as well, so that one process can look through both mounts.
works kmsfs principal create second --uid 0 --policy AdministratorAccess
works kmsfs bucket create box
mount_for admin "$T/m1"
mount_for second "$T/m2"

python "every kind of change on one mount is seen by the next call on the other, 300 rounds" "$T/m1/box" "$T/m2/box" <<'EOF'
import os, random, sys
m1, m2 = sys.argv[1:]
rnd = random.Random(5)
def other(m): return m2 if m == m1 else m1
def absent(p):
    try:
        os.lstat(p)
    except FileNotFoundError:
        return True
    return False
for i in range(300):
    a = rnd.choice((m1, m2)); b = other(a)
    n, m = f"f{i}", f"g{i}"
    assert absent(f"{b}/{n}")                       # a negative entry in b's kernel
    with open(f"{a}/{n}", "w") as f: f.write("one")
    assert open(f"{b}/{n}").read() == "one"
    assert n in os.listdir(b)
    with open(f"{b}/{n}", "a") as f: f.write(" two")
    assert open(f"{a}/{n}").read() == "one two", "append"
    assert os.stat(f"{a}/{n}").st_size == 7
    with open(f"{a}/{n}", "r+") as f: f.write("ONE")
    assert open(f"{b}/{n}").read() == "ONE two", "overwrite"
    os.truncate(f"{b}/{n}", 2)
    assert open(f"{a}/{n}").read() == "ON", "truncate"
    os.chmod(f"{a}/{n}", 0o600)
    assert os.stat(f"{b}/{n}").st_mode & 0o777 == 0o600, "chmod"
    os.setxattr(f"{b}/{n}", "user.x", b"1")
    assert os.getxattr(f"{a}/{n}", "user.x") == b"1", "xattr"
    os.link(f"{a}/{n}", f"{a}/{m}")
    assert os.stat(f"{b}/{n}").st_nlink == 2 and os.stat(f"{b}/{m}").st_nlink == 2, "link"
    os.unlink(f"{b}/{m}")
    assert absent(f"{a}/{m}") and os.stat(f"{a}/{n}").st_nlink == 1, "unlink"
    os.rename(f"{a}/{n}", f"{a}/{m}")
    assert absent(f"{b}/{n}") and open(f"{b}/{m}").read() == "ON", "rename"
    with open(f"{b}/{n}", "w") as f: f.write("replacement")
    os.rename(f"{b}/{n}", f"{b}/{m}")
    assert open(f"{a}/{m}").read() == "replacement", "rename over"
    os.mkdir(f"{a}/d{i}")
    assert os.path.isdir(f"{b}/d{i}")
    os.rmdir(f"{b}/d{i}")
    assert absent(f"{a}/d{i}"), "rmdir"
    os.symlink("x", f"{a}/d{i}")
    assert os.readlink(f"{b}/d{i}") == "x"
    os.unlink(f"{a}/{m}"); os.unlink(f"{b}/d{i}")
assert os.listdir(m1) == os.listdir(m2) == []
EOF

python "open handles on both mounts see each other's writes, and appends never overlap" "$T/m1/box/h" "$T/m2/box/h" <<'EOF'
import os, sys
p1, p2 = sys.argv[1:]
a = os.open(p1, os.O_CREAT | os.O_RDWR, 0o644)
b = os.open(p2, os.O_RDWR)
for i in range(300):
    x, y = (a, b) if i % 2 else (b, a)
    os.pwrite(x, b"%06d" % i, i * 3000)
    assert os.pread(y, 6, i * 3000) == b"%06d" % i, i
    assert os.fstat(y).st_size == i * 3000 + 6, (i, os.fstat(y).st_size)
os.ftruncate(a, 10)
assert os.pread(b, 100, 0) == os.pread(a, 100, 0) and os.fstat(b).st_size == 10
os.close(a); os.close(b)
pids = []
for p, c in ((p1, b"a"), (p2, b"b")):
    pid = os.fork()
    if pid == 0:
        fd = os.open(p, os.O_WRONLY | os.O_APPEND)
        for _ in range(500):
            os.write(fd, c * 99 + b"\n")
        os._exit(0)
    pids.append(pid)
for pid in pids:
    assert os.waitpid(pid, 0)[1] == 0
data = open(p1, "rb").read()
assert len(data) == 10 + 100_000, len(data)
lines = data[10:].split(b"\n")[:-1]
assert len(lines) == 1000 and all(l in (b"a" * 99, b"b" * 99) for l in lines)
assert open(p2, "rb").read() == data
EOF

LIMIT=120 python "both mounts write one file through caches at once, and neither locks up" "$T/m1/box/w" "$T/m2/box/w" <<'EOF'
import os, random, sys
pids = []
for n, p in enumerate(sys.argv[1:] * 2):
    pid = os.fork()
    if pid == 0:
        rnd = random.Random(n)
        fd = os.open(p, os.O_CREAT | os.O_RDWR, 0o644)
        for i in range(1500):
            off = rnd.randrange(0, 64) * 4096
            os.pwrite(fd, bytes([65 + n]) * 4096, off)
            page = os.pread(fd, 4096, rnd.randrange(0, 64) * 4096)
            assert set(page) <= set(b"\0ABCD"), "bytes that nobody wrote"
        os._exit(0)
    pids.append(pid)
for pid in pids:
    assert os.waitpid(pid, 0)[1] == 0
EOF

LIMIT=120 python "both mounts create, rename and remove in one directory at once" "$T/m1/box" "$T/m2/box" <<'EOF'
import os, random, sys
dirs = [d + "/busy" for d in sys.argv[1:]]
os.mkdir(dirs[0])
pids = []
for n, d in enumerate(dirs * 2):
    pid = os.fork()
    if pid == 0:
        rnd = random.Random(n)
        for i in range(1500):
            x, y = f"{d}/{rnd.randrange(20)}", f"{d}/{rnd.randrange(20)}"
            try:
                op = rnd.randrange(4)
                if op == 0: os.close(os.open(x, os.O_CREAT | os.O_WRONLY, 0o644))
                elif op == 1: os.rename(x, y)
                elif op == 2: os.unlink(x)
                else: os.listdir(d)
            except (FileNotFoundError, FileExistsError):
                pass
        os._exit(0)
    pids.append(pid)
for pid in pids:
    assert os.waitpid(pid, 0)[1] == 0
one, two = ({e.name: e.inode() for e in os.scandir(d)} for d in dirs)
assert one == two, (one, two)
for name in one:
    assert os.stat(f"{dirs[0]}/{name}").st_ino == os.stat(f"{dirs[1]}/{name}").st_ino
EOF
works rm -r "$T/m1/box/busy"
works kmsfs umount "$T/m1"
works touch "$T/m2/box/the-other-stays"
works kmsfs umount "$T/m2"

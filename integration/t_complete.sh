#!/usr/bin/env bash
# What Linux programs ask of a file system beside reading and writing, each once, through two mounts of one daemon, with
# default_permissions: t_files.sh has the everyday operations.
. "$(dirname "$0")/lib.sh"
needs_root

new_store
works kmsfs principal create other --uid 0 --policy AdministratorAccess
works kmsfs key create --alias k
works kmsfs bucket create box --sse aws:kms:alias/k
mount_for admin "$T/a" -o allow_other,default_permissions
mount_for other "$T/b" -o allow_other,default_permissions
works chmod 777 "$T/a/box"
export PYTHONPATH=$T PYTHONDONTWRITEBYTECODE=1

cat >"$T/lx.py" <<'EOF'
# What Python has no call for.
import ctypes, errno, os, struct
libc = ctypes.CDLL(None, use_errno=True)

def checked(r):
    if r < 0:
        e = ctypes.get_errno()
        raise OSError(e, os.strerror(e))

def fails(want, fn, *a):
    try:
        fn(*a)
    except OSError as e:
        assert e.errno == want, f"{errno.errorcode[e.errno]}, wanted {errno.errorcode[want]}"
        return
    raise AssertionError(f"succeeded, wanted {errno.errorcode[want]}")

def born(path):
    "The time of birth in ns; None if statx does not tell."
    buf = ctypes.create_string_buffer(256)
    checked(libc.statx(-100, path.encode(), 0, 0xfff, buf))
    sec, ns = struct.unpack_from("<qI", buf, 80)
    return sec * 10**9 + ns if struct.unpack_from("<I", buf)[0] & 0x800 else None

def utimens(path, atime, mtime):
    "Each (seconds, nanoseconds)."
    checked(libc.utimensat(-100, path.encode(), struct.pack("<qqqq", *atime, *mtime), 0))

def link_fd(fd, to):
    checked(libc.linkat(-100, f"/proc/self/fd/{fd}".encode(), -100, to.encode(), 0x400))

def fallocate(fd, mode, off, length):
    checked(libc.fallocate(fd, mode, ctypes.c_long(off), ctypes.c_long(length)))

KEEP, PUNCH, COLLAPSE, ZERO, INSERT = 1, 2, 8, 16, 32
NOW, OMIT = (0, 0x3fffffff), (0, 0x3ffffffe)

def as_user(uid, fn, *a):
    "Runs fn as another user in a child process; 0, or the errno of what it raised."
    pid = os.fork()
    if pid == 0:
        try:
            os.setgroups([]); os.setgid(uid); os.setuid(uid)
            fn(*a)
            os._exit(0)
        except OSError as e:
            os._exit(e.errno)
        except BaseException as e:
            print(repr(e), flush=True)
            os._exit(255)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
EOF

story "statx and times"
python "statx has the time of birth, and no later change moves it" "$T/a/box/born" "$T/b/box/born" <<'EOF'
import os, sys, time
from lx import *
a, b = sys.argv[1:]
before = time.time_ns() - 10**9
open(a, "w").write("x")
t = born(a)
assert t and before < t <= time.time_ns(), t
os.utime(a, ns=(1, 2)); os.chmod(a, 0o600); open(b, "a").write("y"); os.rename(b, b + "2")
assert born(a + "2") == t and born(b + "2") == t
EOF
python "utimensat: NOW, OMIT, nanoseconds, years before 1970 and after 2038" "$T/a/box/times" "$T/b/box/times" <<'EOF'
import os, sys, time
from lx import *
a, b = sys.argv[1:]
open(a, "w").close()
utimens(a, (5, 6), (7, 8))
s = os.stat(b); assert (s.st_atime_ns, s.st_mtime_ns) == (5 * 10**9 + 6, 7 * 10**9 + 8)
utimens(b, OMIT, (9, 1))
s = os.stat(a); assert (s.st_atime_ns, s.st_mtime_ns) == (5 * 10**9 + 6, 9 * 10**9 + 1)
t = time.time_ns() - 10**9
utimens(a, NOW, OMIT)
s = os.stat(b); assert s.st_atime_ns >= t and s.st_mtime_ns == 9 * 10**9 + 1
utimens(a, OMIT, OMIT)
assert os.stat(b).st_mtime_ns == 9 * 10**9 + 1
for year in (-10**9, 2**31 + 5, 2**32 + 7):
    utimens(a, (year, 1), (year, 2))
    assert os.stat(b).st_mtime_ns == year * 10**9 + 2, year
utimens(a, NOW, NOW)
# Another may set NOW where he may write, and nothing else.
os.chmod(a, 0o666)
assert as_user(4321, utimens, a, NOW, NOW) == 0
assert as_user(4321, utimens, a, (1, 1), (1, 1)) == 1
EOF

story "set-id bits and sticky directories"
python "set-id bits go when another writes, truncates or the owner changes; root keeps them" "$T/a/box/suid" "$T/b/box/suid" <<'EOF'
import os, stat, sys
from lx import *
a, b = sys.argv[1:]
open(a, "w").write("12345678")
def again(mode=0o6777):
    os.chown(a, 0, 0); os.chmod(a, mode)
def mode(): return stat.S_IMODE(os.stat(b).st_mode)
def append():
    with open(a, "a") as f: f.write("x")
def copy():
    i = os.open(a, os.O_RDONLY); o = os.open(a, os.O_WRONLY); os.copy_file_range(i, o, 2, 0, 4)
for what in (append, lambda: os.truncate(a, 7), lambda: fallocate(os.open(a, os.O_RDWR), 0, 0, 100), copy):
    again(); assert mode() == 0o6777
    assert as_user(4321, what) == 0
    assert mode() == 0o777, oct(mode())
again(); append(); assert mode() == 0o6777
again(); os.chown(a, 4321, 4321); assert mode() == 0o777, oct(mode())
again(0o2767); os.chown(a, 1, 1); assert mode() == 0o2767, oct(mode())  # without group execution the bit is none
# Of a group that is not one's own no set-group-id can be given.
again(0o644); os.chown(a, 4321, 99)
assert as_user(4321, os.chmod, a, 0o2755) == 0 and mode() == 0o755, oct(mode())
EOF
python "sticky: who owns neither file nor directory removes and renames nothing" "$T/a/box/sticky" <<'EOF'
import os, sys
from lx import *
d = sys.argv[1]
os.mkdir(d); os.chmod(d, 0o1777)
for n, uid in ("root", 0), ("mine", 4321):
    open(f"{d}/{n}", "w").close(); os.chown(f"{d}/{n}", uid, uid)
assert as_user(4321, os.unlink, d + "/root") == 1
assert as_user(4321, os.rename, d + "/root", d + "/x") == 1
assert as_user(4321, os.rename, d + "/mine", d + "/root") == 1
assert as_user(4321, os.rename, d + "/mine", d + "/x") == 0
assert as_user(4321, os.unlink, d + "/x") == 0
EOF

story "ways to write"
python "O_DIRECT writes and reads beside the cache" "$T/a/box/direct" "$T/b/box/direct" <<'EOF'
import mmap, os, sys
a, b = sys.argv[1:]
fd = os.open(a, os.O_CREAT | os.O_RDWR | os.O_DIRECT, 0o644)
buf = mmap.mmap(-1, 1 << 20); buf[:] = os.urandom(1 << 20)
assert os.pwritev(fd, [buf], 4096) == 1 << 20
assert open(b, "rb").read() == bytes(4096) + buf[:]
with open(b, "r+b") as f:
    f.seek(8192); f.write(b"seen at once"); f.flush()
    back = mmap.mmap(-1, 4096)
    assert os.preadv(fd, [back], 8192) == 4096 and back[:12] == b"seen at once"
EOF
python "O_APPEND by eight processes on both mounts loses nothing and mixes nothing" "$T/a/box/log" "$T/b/box/log" <<'EOF'
import collections, os, sys
N = 300
for i in range(8):
    if os.fork() == 0:
        fd = os.open(sys.argv[1 + i % 2], os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o644)
        for k in range(N):
            line = b"%d %04d %s\n" % (i, k, b"x" * (k % 50))
            assert os.write(fd, line) == len(line)
        os._exit(0)
for _ in range(8):
    assert os.wait()[1] == 0
for p in sys.argv[1:]:
    seen = collections.defaultdict(int)
    for line in open(p, "rb"):
        i, k, x = line.rstrip(b"\n").split(b" ")
        assert int(k) == seen[i] and len(x) == int(k) % 50, line
        seen[i] += 1
    assert set(seen.values()) == {N} and len(seen) == 8, seen
EOF
python "O_TMPFILE: no name until it is linked, and none to link with O_EXCL" "$T/a/box" "$T/b/box" <<'EOF'
import errno, os, sys
from lx import *
a, b = sys.argv[1:]
before = sorted(os.listdir(a))
try:
    fd = os.open(a, os.O_TMPFILE | os.O_RDWR, 0o640)
except OSError as e:
    assert e.errno == errno.EOPNOTSUPP
    print("this kernel does not offer it to FUSE")
    sys.exit(0)
os.write(fd, b"nameless")
assert os.fstat(fd).st_nlink == 0 and sorted(os.listdir(b)) == before
link_fd(fd, a + "/named")
assert open(b + "/named").read() == "nameless" and os.fstat(fd).st_nlink == 1
fd = os.open(a, os.O_TMPFILE | os.O_RDWR | os.O_EXCL, 0o640)
fails(errno.ENOENT, link_fd, fd, a + "/never")
EOF
python "a shared mapping is the file, on this mount and after msync on the other" "$T/a/box/map" "$T/b/box/map" <<'EOF'
import mmap, os, sys
a, b = sys.argv[1:]
open(a, "wb").write(bytes(100_000))
fd = os.open(a, os.O_RDWR)
m = mmap.mmap(fd, 100_000)
if os.fork() == 0:
    n = mmap.mmap(os.open(a, os.O_RDWR), 100_000)
    n[50_000:50_005] = b"child"
    os._exit(0)
os.wait()
assert m[50_000:50_005] == b"child"
m[70_000:70_006] = b"parent"
assert os.pread(fd, 6, 70_000) == b"parent"
m.flush()
back = open(b, "rb").read()
assert back[50_000:50_005] == b"child" and back[70_000:70_006] == b"parent"
EOF

story "ranges"
python "fallocate: allocate, keep size, punch, zero; collapse and insert are not offered" "$T/a/box/ranges" "$T/b/box/ranges" <<'EOF'
import errno, os, sys
from lx import *
a, b = sys.argv[1:]
model = bytearray(os.urandom(300_000))
open(a, "wb").write(model)
fd = os.open(a, os.O_RDWR)
def same(): assert open(b, "rb").read() == bytes(model) == os.pread(fd, 1 << 20, 0)
fallocate(fd, PUNCH | KEEP, 5_000, 100_000); model[5_000:105_000] = bytes(100_000); same()
fallocate(fd, ZERO, 290_000, 20_000); model[290_000:] = bytes(20_000); same()
fallocate(fd, ZERO | KEEP, 300_000, 50_000); model[300_000:] = bytes(10_000); same()
fallocate(fd, KEEP, 0, 1 << 20); same()
fallocate(fd, 0, 0, 400_000); model.extend(bytes(90_000)); same()
for mode in COLLAPSE, INSERT:
    fails(errno.EOPNOTSUPP, fallocate, fd, mode, 0, 4096)
fails(errno.EOPNOTSUPP, fallocate, fd, PUNCH, 0, 4096)
fails(errno.EINVAL, fallocate, fd, 0, 0, 0)
os.close(fd); fd = os.open(a, os.O_RDONLY)
fails(errno.EBADF, fallocate, fd, 0, 0, 4096)
EOF
python "a sparse file of 7 TiB: sizes, holes, data, blocks" "$T/a/box/sparse" "$T/b/box/sparse" <<'EOF'
import errno, os, sys
from lx import *
a, b = sys.argv[1:]
TiB = 1 << 40
fd = os.open(a, os.O_CREAT | os.O_RDWR, 0o644)
for i in (0, 1, 3, 6):
    os.pwrite(fd, b"%d" % i * 10_000, i * TiB)
os.ftruncate(fd, 7 * TiB)
os.fsync(fd)
s = os.stat(b)
assert s.st_size == 7 * TiB and s.st_blocks * 512 < 1 << 20, s
other = os.open(b, os.O_RDONLY)
assert os.pread(other, 100_000, 3 * TiB - 50) == bytes(50) + b"3" * 10_000 + bytes(100_000 - 10_050)
at, seen = 0, []
while True:
    try:
        at = os.lseek(other, at, os.SEEK_DATA)
    except OSError as e:
        assert e.errno == errno.ENXIO
        break
    seen.append(at)
    at = os.lseek(other, at, os.SEEK_HOLE)
assert seen == [0, TiB, 3 * TiB, 6 * TiB], seen
assert os.lseek(other, 6 * TiB + 20_000, os.SEEK_HOLE) == 6 * TiB + 20_000
fails(errno.ENXIO, os.lseek, other, 7 * TiB, os.SEEK_HOLE)
fallocate(fd, PUNCH | KEEP, TiB, 2 * TiB + 5_000)
assert os.pread(other, 6_000, 3 * TiB) == bytes(5_000) + b"3" * 1_000
os.ftruncate(fd, 5)
os.ftruncate(fd, (1 << 63) - 1)
assert os.stat(b).st_size == (1 << 63) - 1
os.unlink(a)
EOF
python "copy_file_range: the whole of a file, into another bucket, under another key" "$T/a" "$T/b" <<'EOF'
import os, sys
a, b = sys.argv[1:]
os.mkdir(a + "/target")
data = os.urandom(3 << 20)
with open(a + "/box/from", "wb") as f:
    f.write(data); f.seek(8 << 20); f.write(data)
i, o = os.open(a + "/box/from", os.O_RDONLY), os.open(a + "/target/to", os.O_CREAT | os.O_WRONLY, 0o644)
done = 0
while n := os.copy_file_range(i, o, 1 << 30):
    done += n
assert done == 11 << 20, done
assert open(b + "/target/to", "rb").read() == data + bytes(5 << 20) + data
assert os.getxattr(b + "/box/from", "user.s3.sse") != os.getxattr(b + "/target/to", "user.s3.sse")
EOF

story "locks"
python "flock, POSIX and OFD locks exclude across mounts, and a signal ends a wait" "$T/a/box/locked" "$T/b/box/locked" <<'EOF'
import errno, fcntl, os, signal, struct, sys
from lx import *
a, b = sys.argv[1:]
open(a, "w").close()
fa, fb = os.open(a, os.O_RDWR), os.open(b, os.O_RDWR)
def lk(typ, start, length): return struct.pack("<hh4xqqi4x", typ, 0, start, length, 0)
OFD_SETLK, OFD_SETLKW = 37, 38
fcntl.flock(fa, fcntl.LOCK_EX); fails(errno.EAGAIN, fcntl.flock, fb, fcntl.LOCK_SH | fcntl.LOCK_NB); fcntl.flock(fa, fcntl.LOCK_UN)
for cmd in fcntl.F_SETLK, OFD_SETLK:
    fcntl.fcntl(fa, cmd, lk(fcntl.F_WRLCK, 10, 10))
    fails(errno.EAGAIN, fcntl.fcntl, fb, cmd, lk(fcntl.F_RDLCK, 15, 1))
    fcntl.fcntl(fb, cmd, lk(fcntl.F_WRLCK, 20, 10))
    fcntl.fcntl(fa, cmd, lk(fcntl.F_UNLCK, 0, 0)); fcntl.fcntl(fb, cmd, lk(fcntl.F_UNLCK, 0, 0))
class Alarm(Exception): pass
def ring(*_): raise Alarm
signal.signal(signal.SIGALRM, ring)
waits = (lambda: fcntl.flock(fb, fcntl.LOCK_EX), lambda: fcntl.fcntl(fb, fcntl.F_SETLKW, lk(fcntl.F_WRLCK, 0, 0)),
         lambda: fcntl.fcntl(fb, OFD_SETLKW, lk(fcntl.F_WRLCK, 0, 0)))
for wait in waits:
    fcntl.flock(fa, fcntl.LOCK_EX); fcntl.fcntl(fa, fcntl.F_SETLK, lk(fcntl.F_WRLCK, 0, 0))
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.3)
        wait()
        raise AssertionError("it did not wait")
    except Alarm:
        pass
    fcntl.flock(fa, fcntl.LOCK_UN); fcntl.fcntl(fa, fcntl.F_SETLK, lk(fcntl.F_UNLCK, 0, 0))
    wait()  # and now it is free
    fcntl.flock(fb, fcntl.LOCK_UN)
    for cmd in fcntl.F_SETLK, OFD_SETLK: fcntl.fcntl(fb, cmd, lk(fcntl.F_UNLCK, 0, 0))
EOF
python "two processes that wait for each other: one is told EDEADLK" "$T/a/box/deadlock" "$T/b/box/deadlock" <<'EOF'
import errno, fcntl, os, struct, sys
open(sys.argv[1], "w").close()
def lk(typ, start): return struct.pack("<hh4xqqi4x", typ, 0, start, 1, 0)
ready, go = os.pipe(), os.pipe()
def one(me):
    fd = os.open(sys.argv[1 + me], os.O_RDWR)
    fcntl.fcntl(fd, fcntl.F_SETLK, lk(fcntl.F_WRLCK, me))
    os.write(ready[1], b"x"); os.read(go[0], 1)
    try:
        fcntl.fcntl(fd, fcntl.F_SETLKW, lk(fcntl.F_WRLCK, 1 - me))
        os._exit(0)
    except OSError as e:
        os._exit(e.errno)
for me in 0, 1:
    if os.fork() == 0:
        one(me)
assert len(os.read(ready[0], 1) + os.read(ready[0], 1)) == 2
os.write(go[1], b"xx")
ends = sorted(os.waitstatus_to_exitcode(os.wait()[1]) for _ in range(2))
assert ends == [0, errno.EDEADLK], ends
EOF

story "ACLs"
works sh -c "cd $T/a/box && echo secret >acl && chmod 600 acl && setfacl -m u:4321:r acl"
matches 'user:4321:r--' getfacl -n --absolute-names "$T/b/box/acl"
prints secret setpriv --reuid=4321 --regid=4321 --clear-groups cat "$T/b/box/acl"
refused "Permission denied" setpriv --reuid=4322 --regid=4322 --clear-groups cat "$T/b/box/acl"
works sh -c "cd $T/a/box && mkdir acls && setfacl -d -m u:4321:rwx acls && umask 077 && mkdir acls/sub && echo x >acls/sub/f"
matches 'default:user:4321:rwx' getfacl -n --absolute-names "$T/b/box/acls/sub"
matches 'user:4321:rwx' getfacl -n --absolute-names "$T/b/box/acls/sub/f"
works chmod 700 "$T/a/box/acl"
matches 'mask::---' getfacl -n --absolute-names "$T/b/box/acl"
refused "Permission denied" setpriv --reuid=4321 --regid=4321 --clear-groups cat "$T/b/box/acl"

story "names, and the file system as a whole"
python "255 bytes of any value but / and NUL" "$T/a/box" "$T/b/box" <<'EOF'
import errno, os, sys
from lx import *
a, b = (p.encode() for p in sys.argv[1:])
os.mkdir(a + b"/names")
every = bytes(c for c in range(1, 256) if c != 0x2f)  # 254 of them
names = {every + b"x", every[::-1] + b"y", b"\xff" * 255, b"\n" * 255, b"a" * 255, "ü".encode() * 127 + b"z"}
for n in names:
    open(a + b"/names/" + n, "wb").write(n)
assert set(os.listdir(b + b"/names")) == names
for n in names:
    assert open(b + b"/names/" + n, "rb").read() == n
fails(errno.ENAMETOOLONG, os.mkdir, a + b"/names/" + b"a" * 256)
assert os.pathconf(a, "PC_NAME_MAX") == 255
EOF
python "a quota is what statfs shows, is refused at write, and is given back" "$T/a/small" "$T/b/small" <<'EOF'
import errno, os, sys
from lx import *
a, b = sys.argv[1:]
os.mkdir(a)
os.setxattr(a, "user.s3.quota", b"bytes=10485760,inodes=20")
s = os.statvfs(b)
assert s.f_blocks * s.f_frsize == 10 << 20 and s.f_bavail * s.f_frsize <= 10 << 20 and s.f_files == 20, s
fd = os.open(a + "/f", os.O_CREAT | os.O_WRONLY, 0o644)
wrote = 0
try:
    while True:
        wrote += os.write(fd, bytes(1 << 20))  # the refusal comes at the write, not at close
except OSError as e:
    assert e.errno == errno.EDQUOT
assert 9 << 20 <= wrote <= 10 << 20, wrote
os.close(fd)
s = os.statvfs(b)
assert s.f_bavail * s.f_frsize <= 1 << 20, s
fails(errno.EDQUOT, open(b + "/g", "wb", buffering=0).write, bytes(2 << 20))
os.unlink(b + "/f")
open(b + "/g", "wb").write(bytes(5 << 20))
made = 0
try:
    while True:
        os.mkdir(f"{a}/d{made}"); made += 1
except OSError as e:
    assert e.errno == errno.EDQUOT
assert 15 <= made <= 20, made
EOF
python "free space: what is written is gone from it, what is removed comes back" "$T/a/box/space" "$T/b" <<'EOF'
import os, sys, time
p, other = sys.argv[1:]
def stored(): return sum(os.stat(os.path.join(d, n)).st_blocks * 512 for d, _, ns in os.walk(os.environ["KMSFS_STORE"] + "/segments") for n in ns)
before = stored()
fd = os.open(p, os.O_CREAT | os.O_WRONLY, 0o644)
for _ in range(16): os.write(fd, os.urandom(4 << 20))
os.fsync(fd); os.close(fd)
assert stored() >= before + (48 << 20), (before, stored())  # what was removed before may be given back meanwhile
s = os.statvfs(other)
disk = os.statvfs(os.environ["KMSFS_STORE"])
assert 0 < s.f_bavail <= s.f_bfree <= s.f_blocks and s.f_bavail * s.f_frsize <= disk.f_bavail * disk.f_frsize + (1 << 30), (s, disk)
os.unlink(p)
until = time.monotonic() + 150
while stored() > before + (16 << 20):
    assert time.monotonic() < until, f"the space did not come back: {before} {stored()}"
    time.sleep(0.2)
EOF

story "all that, once more after a restart"
(cd "$T/a/box" && find . -type f -exec sha256sum {} + | sort) >"$T/before"
stop_daemon
mount_for admin "$T/a" -o allow_other,default_permissions
(cd "$T/a/box" && find . -type f -exec sha256sum {} + | sort) >"$T/after"
works diff "$T/before" "$T/after"
works kmsfs fsck --data

#!/usr/bin/env bash
# Every ordinary operation on files and directories, once, through the kernel, as the administrator.
. "$(dirname "$0")/lib.sh"
needs_root

new_store
mount_for admin "$T/m"
works mkdir "$T/m/box"
cd "$T/m/box" || die "no bucket"

story "read and write"
works sh -c "echo one >f && echo two >>f && echo three >>f"
prints $'one\ntwo\nthree' cat f
works sh -c "echo new >f"
prints new cat f
works sh -c ": >f"
prints 0 stat -c %s f
python "random writes of odd sizes equal a model in memory" f <<'EOF'
import os, random, sys
rnd = random.Random(11)
model = bytearray()
fd = os.open(sys.argv[1], os.O_RDWR)
for i in range(1500):
    op = rnd.random()
    if op < 0.75:
        off, n = rnd.randrange(0, 900_000), rnd.randrange(1, 20_000)
        data = rnd.randbytes(n)
        assert os.pwrite(fd, data, off) == n
        if len(model) < off + n:
            model.extend(bytes(off + n - len(model)))
        model[off:off + n] = data
    elif op < 0.85:
        size = rnd.randrange(0, 1_000_000)
        os.ftruncate(fd, size)
        model[size:] = b""
        model.extend(bytes(size - len(model)))
    elif op < 0.9:
        os.fsync(fd)
    else:
        off, n = rnd.randrange(0, 1_000_000), rnd.randrange(1, 30_000)
        assert os.pread(fd, n, off) == bytes(model[off:off + n]), f"step {i}"
    assert os.fstat(fd).st_size == len(model), f"size at step {i}"
os.close(fd)
assert open(sys.argv[1], "rb").read() == bytes(model)
EOF
python "O_APPEND: every writer adds at the true end" appended <<'EOF'
import os, sys
p = sys.argv[1]
fds = [os.open(p, os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o644) for _ in range(3)]
for i in range(300):
    os.write(fds[i % 3], b"%05d\n" % i)
os.pwrite(fds[0], b"end\n", 0)  # Linux: a file opened with O_APPEND ignores the offset
want = b"".join(b"%05d\n" % i for i in range(300)) + b"end\n"
assert open(p, "rb").read() == want
EOF
python "holes read as zeros and SEEK_END knows the size" sparse <<'EOF'
import os, sys
fd = os.open(sys.argv[1], os.O_CREAT | os.O_RDWR, 0o644)
os.pwrite(fd, b"end", 5_000_000)
assert os.pread(fd, 4096, 123_456) == bytes(4096)
assert os.pread(fd, 10, 4_999_998) == b"\0\0end"
assert os.lseek(fd, 0, os.SEEK_END) == 5_000_003
os.ftruncate(fd, 10_000_000)
assert os.pread(fd, 8, 9_999_996) == bytes(4)
assert os.pread(fd, 8, 10_000_000) == b""
os.ftruncate(fd, 100)
os.ftruncate(fd, 5_000_003)
assert os.pread(fd, 3, 5_000_000) == bytes(3), "old bytes came back after shrink and grow"
os.close(fd)
EOF
works truncate -s 3000000000 large
prints 3000000000 stat -c %s large
works sh -c "printf x | dd of=large bs=1 seek=2999999999 conv=notrunc status=none"
prints x tail -c 1 large
works rm large
python "an unlinked file lives while it is open" gone <<'EOF'
import os, sys
p = sys.argv[1]
fd = os.open(p, os.O_CREAT | os.O_RDWR, 0o644)
os.write(fd, b"still here")
os.unlink(p)
assert not os.path.exists(p)
os.fsync(fd)
assert os.pread(fd, 100, 0) == b"still here"
os.pwrite(fd, b"!", 10)
os.ftruncate(fd, 5)
assert os.fstat(fd).st_nlink == 0 and os.fstat(fd).st_size == 5
os.close(fd)
EOF
python "rename over an open file leaves the old one readable" old new <<'EOF'
import os, sys
a, b = sys.argv[1:]
open(a, "w").write("old content"); open(b, "w").write("new content")
fd = os.open(a, os.O_RDONLY)
os.rename(b, a)
assert os.read(fd, 100) == b"old content"
assert open(a).read() == "new content" and not os.path.exists(b)
EOF
python "memory maps: shared writes reach the file, private ones do not" mapped <<'EOF'
import mmap, os, sys
p = sys.argv[1]
open(p, "wb").write(b"a" * 20_000)
fd = os.open(p, os.O_RDWR)
m = mmap.mmap(fd, 20_000)
m[5000:5005] = b"hello"
m.flush()
assert os.pread(fd, 5, 5000) == b"hello"
os.pwrite(fd, b"world", 9000)
assert m[9000:9005] == b"world"
m.close(); os.close(fd)
assert open(p, "rb").read()[5000:5005] == b"hello"
fd = os.open(p, os.O_RDONLY)
m = mmap.mmap(fd, 0, access=mmap.ACCESS_COPY)
m[0:5] = b"XXXXX"
m.close(); os.close(fd)
assert open(p, "rb").read(5) == b"aaaaa"
EOF
python "O_EXCL, O_DIRECTORY, O_NOFOLLOW and friends answer as POSIX says" x <<'EOF'
import errno, os, sys
def fails(want, fn, *a):
    try:
        fn(*a)
    except OSError as e:
        assert e.errno == want, f"{fn.__name__}{a}: {errno.errorcode[e.errno]}, wanted {errno.errorcode[want]}"
        return
    raise AssertionError(f"{fn.__name__}{a} succeeded, wanted {errno.errorcode[want]}")
p = sys.argv[1]
os.close(os.open(p, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o640))
fails(errno.EEXIST, os.open, p, os.O_CREAT | os.O_EXCL | os.O_WRONLY)
fails(errno.ENOTDIR, os.open, p, os.O_RDONLY | os.O_DIRECTORY)
fails(errno.ENOENT, os.open, "absent", os.O_RDONLY)
fails(errno.ENOTDIR, os.open, p + "/y", os.O_RDONLY)
os.mkdir("d"); os.mkdir("d/e")
fails(errno.EISDIR, os.open, "d", os.O_WRONLY)
fails(errno.EEXIST, os.mkdir, "d")
fails(errno.ENOTEMPTY, os.rmdir, "d")
fails(errno.ENOTDIR, os.rmdir, p)
fails(errno.EISDIR, os.unlink, "d")
fails(errno.ENOTDIR, os.rename, "d", p)
fails(errno.EISDIR, os.rename, p, "d")
fails(errno.EINVAL, os.rename, "d", "d/e/f")
fails(errno.ENAMETOOLONG, os.mkdir, "n" * 256)
os.symlink(p, "l")
fails(errno.ELOOP, os.open, "l", os.O_RDONLY | os.O_NOFOLLOW)
fails(errno.EINVAL, os.readlink, p)
os.rmdir("d/e"); os.rmdir("d"); os.unlink("l"); os.unlink(p)
EOF

story "names"
long=$(printf 'n%.0s' $(seq 255))
works touch "$long"
prints "$long" ls -- "$long"
works rm "$long"
refused "File name too long" touch "${long}x"
python "names are bytes: every byte but / and NUL, as given" <<'EOF'
import os
os.mkdir(b"odd")
names = {bytes([b]) + b"x" for b in range(1, 256) if b != 0x2f} | {b"\xff\xfe", "ä€😀".encode(), b" ", b"%2F", b"-rf", b"a\nb"}
for n in names:
    with open(b"odd/" + n, "wb") as f:
        f.write(n)
assert set(os.listdir(b"odd")) == names
for n in names:
    assert open(b"odd/" + n, "rb").read() == n
    os.rename(b"odd/" + n, b"odd/" + n + b"~")
assert set(os.listdir(b"odd")) == {n + b"~" for n in names}
EOF
works rm -rf odd
deep=$(printf 'd/%.0s' $(seq 60))
works mkdir -p "$deep"
works sh -c "echo deep >${deep}f"
prints deep cat "${deep}f"
works rm -r d

story "links"
works sh -c "echo content >a && ln a b2 && ln -s a s && ln -s /nowhere dangling"
prints 2 stat -c %h a
prints content cat s
prints a readlink s
works sh -c "echo more >>b2"
prints $'content\nmore' cat a
works rm a
prints 1 stat -c %h b2
prints $'content\nmore' cat b2
refused "No such file" cat s
works rm s dangling b2
works mkfifo fifo
python "a fifo passes bytes" fifo <<'EOF'
import os, sys
p = sys.argv[1]
if os.fork() == 0:
    with open(p, "w") as f:
        f.write("through")
    os._exit(0)
assert open(p).read() == "through"
os.wait()
EOF
prints fifo stat -c %F fifo
python "a socket can be bound" sock <<'EOF'
import socket, sys
s = socket.socket(socket.AF_UNIX); s.bind(sys.argv[1]); s.listen()
c = socket.socket(socket.AF_UNIX); c.connect(sys.argv[1])
EOF
works rm fifo sock

story "modes, owners, times"
works touch t
works chmod 4751 t
prints 4751 stat -c %a t
works sh -c "echo x >>t"
works chown 1234:4321 t
prints 1234:4321 stat -c %u:%g t
prints 751 stat -c %a t
works touch -d '2001-02-03 04:05:06.123456789' t
prints '2001-02-03 04:05:06.123456789 +0000' stat -c %y t
works touch -a -d '1999-01-01' t
prints '1999-01-01 00:00:00.000000000 +0000' stat -c %x t
prints '2001-02-03 04:05:06.123456789 +0000' stat -c %y t
works touch -d '1950-06-01' t
prints '1950-06-01 00:00:00.000000000 +0000' stat -c %y t
python "mtime and ctime move with what changes" t2 <<'EOF'
import os, sys, time
p = sys.argv[1]
open(p, "w").close()
def st(): return os.stat(p)
def step():
    time.sleep(0.02)
    return st()
a = step(); open(p, "a").write("x"); b = st()
assert b.st_mtime_ns > a.st_mtime_ns and b.st_ctime_ns > a.st_ctime_ns, "write"
a = step(); os.chmod(p, 0o600); b = st()
assert b.st_mtime_ns == a.st_mtime_ns and b.st_ctime_ns > a.st_ctime_ns, "chmod"
a = step(); os.rename(p, p + "x"); os.rename(p + "x", p); b = st()
assert b.st_mtime_ns == a.st_mtime_ns, "rename"
d0 = os.stat("."); time.sleep(0.02); open("child", "w").close(); d1 = os.stat(".")
assert d1.st_mtime_ns > d0.st_mtime_ns, "create in a directory"
time.sleep(0.02); os.unlink("child"); d2 = os.stat(".")
assert d2.st_mtime_ns > d1.st_mtime_ns, "unlink in a directory"
EOF
works mkdir dir
prints 2 stat -c %h dir
works mkdir dir/sub
prints 3 stat -c %h dir
works rm -r dir

story "extended attributes"
works set_attr user.one "first value" t
works set_attr user.two "" t
prints "first value" attr user.one t
matches 'user.one' getfattr -d t
matches 'user.two' getfattr -d t
lacks 'user.s3' getfattr -d t
works setfattr -x user.one t
refused "No such attribute" attr user.one t
python "attribute flags and sizes" t <<'EOF'
import errno, os, sys
p = sys.argv[1]
def fails(want, fn, *a):
    try:
        fn(*a)
    except OSError as e:
        assert e.errno == want, f"{errno.errorcode[e.errno]}, wanted {errno.errorcode[want]}"
        return
    raise AssertionError("succeeded, wanted " + errno.errorcode[want])
os.setxattr(p, "user.v", b"1", os.XATTR_CREATE)
fails(errno.EEXIST, os.setxattr, p, "user.v", b"2", os.XATTR_CREATE)
fails(errno.ENODATA, os.setxattr, p, "user.w", b"2", os.XATTR_REPLACE)
os.setxattr(p, "user.v", b"3", os.XATTR_REPLACE)
assert os.getxattr(p, "user.v") == b"3"
big = os.urandom(60_000)
os.setxattr(p, "user.big", big)
assert os.getxattr(p, "user.big") == big
fails(errno.ENODATA, os.removexattr, p, "user.w")
os.removexattr(p, "user.big")
EOF
works set_attr user.on.dir yes .
prints yes attr user.on.dir .

story "directories"
works mkdir many
python "20,000 names: all listed once, also while others come and go" many <<'EOF'
import os, sys
d = sys.argv[1]
N = 20_000
for i in range(N):
    os.close(os.open(f"{d}/file-{i:05}", os.O_CREAT | os.O_WRONLY, 0o644))
names = os.listdir(d)
assert len(names) == N and len(set(names)) == N, (len(names), len(set(names)))
# What is there from beginning to end of a listing is seen exactly once, whatever happens around it.
seen = []
with os.scandir(d) as it:
    for n, e in enumerate(it):
        seen.append(e.name)
        if n % 100 == 0:
            os.unlink(f"{d}/file-{n // 100:05}")
            os.close(os.open(f"{d}/new-{n}", os.O_CREAT | os.O_WRONLY, 0o644))
assert len(seen) == len(set(seen)), "a name came twice"
stay = {f"file-{i:05}" for i in range(N // 100, N)}
missing = stay - set(seen)
assert not missing, f"{len(missing)} names were missed"
EOF
prints 20000 sh -c "ls -f many | grep -vc '^\.'"
works sh -c "ls -l many >/dev/null"
LIMIT=120 python "one listing is enough to remove them all, while others come and go" many <<'EOF'
import os, sys
d = sys.argv[1]
ready, stop = os.pipe(), os.pipe()
if os.fork() == 0:
    os.set_blocking(stop[0], False)
    k = 0
    while True:
        try:
            if os.read(stop[0], 1) is not None:
                os._exit(0)
        except BlockingIOError:
            pass
        os.close(os.open(f"{d}/other-{k}", os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644))
        if k >= 20:
            os.unlink(f"{d}/other-{k - 20}")
        k += 1
        if k == 30:
            os.write(ready[1], b"x")
os.read(ready[0], 1)
others = 0
with os.scandir(d) as it:
    for e in it:
        if e.name.startswith("other-"):
            others += 1
        else:
            os.unlink(e.path)  # a name that comes twice is not there any more
os.write(stop[1], b"x")
assert os.waitstatus_to_exitcode(os.wait()[1]) == 0
left = os.listdir(d)
assert all(n.startswith("other-") for n in left) and 20 <= len(left) <= 21 and others > 0, (len(left), left[:5], others)
EOF
works rm -r many
works mkdir -p p/q
works touch p/q/f
works mv p/q p/r
works mv p/r .
prints f ls r
python "RENAME_NOREPLACE and RENAME_EXCHANGE" <<'EOF'
import ctypes, errno, os
libc = ctypes.CDLL(None, use_errno=True)
def rename2(a, b, flags):
    if libc.renameat2(-100, a.encode(), -100, b.encode(), flags):
        return ctypes.get_errno()
    return 0
open("ex1", "w").write("1"); open("ex2", "w").write("2")
assert rename2("ex1", "ex2", 1) == errno.EEXIST
assert rename2("ex1", "ex2", 2) == 0
assert open("ex1").read() == "2" and open("ex2").read() == "1"
assert rename2("ex1", "ex3", 1) == 0
assert rename2("ex2", "absent", 2) == errno.ENOENT
EOF

story "the filesystem as a whole"
works stat -f .
prints yes bash -c 'read -r total free < <(stat -f -c "%b %a" .) && ((total > 0 && free > 0 && free <= total)) && echo yes'
works df .
works sync t
works sh -c "dd if=/dev/zero of=synced bs=64k count=16 oflag=sync status=none && dd if=/dev/zero of=synced bs=64k count=16 conv=fsync status=none"
python "flock and fcntl locks exclude between processes" locked <<'EOF'
import fcntl, os, sys
p = sys.argv[1]
a = open(p, "w"); fcntl.flock(a, fcntl.LOCK_EX)
def child(fn):
    pid = os.fork()
    if pid == 0:
        try:
            fn(open(p, "r+"), fcntl.LOCK_EX | fcntl.LOCK_NB)
            os._exit(0)
        except OSError:
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
assert child(fcntl.flock) == 1
fcntl.flock(a, fcntl.LOCK_UN)
assert child(fcntl.flock) == 0
fcntl.lockf(a, fcntl.LOCK_EX)
assert child(fcntl.lockf) == 1
EOF

story "buckets: S3's rules for names; nothing else lives beside them"
cd "$T/m" || die "no mount"
works mkdir good-bucket.name
for bad in ab UPPER under_score -start end- a..b 192.168.1.1 xn--abc; do
  refused "Invalid argument" mkdir -- "./$bad"
done
refused "Invalid argument" mkdir "$(printf 'b%.0s' $(seq 64))"
works mkdir "$(printf 'b%.0s' $(seq 63))"
refused "File exists" mkdir good-bucket.name
refused "Operation not permitted" touch file-beside-buckets
refused "Operation not permitted" ln -s x link-beside-buckets
refused "Operation not permitted" mv good-bucket.name other-bucket
works sh -c "echo x >box/crossing"
python "rename and link across buckets: EXDEV, so that mv copies" <<'EOF'
import errno, os
for fn in os.rename, os.link:
    try:
        fn("box/crossing", "good-bucket.name/crossing")
        raise AssertionError("succeeded")
    except OSError as e:
        assert e.errno == errno.EXDEV, errno.errorcode[e.errno]
EOF
works mv box/crossing good-bucket.name/
refused "Directory not empty" rmdir good-bucket.name
works rm good-bucket.name/crossing
works rmdir good-bucket.name
cd /

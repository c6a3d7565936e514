#!/usr/bin/env bash
# One principal takes all that he can get of the daemon's memory, each kind of thing by itself; what the daemon then holds is bounded, another works
# on, and it is given back.
. "$(dirname "$0")/lib.sh"
needs_root
person alice
person bob

works kmsfs init
for who in alice bob; do
  works kmsfs principal create "$who" --uid "$(uid_of "$who")" --policy AmazonS3FullAccess
  works kmsfs principal attach "$who" AdministratorAccess
done
works kmsfs key create --alias k
works kmsfs serve
a=$T/home/alice/s3 b=$T/home/bob/s3
mount_for alice "$a"
mount_for bob "$b" -o default_permissions # for the ACLs
works as alice sh -c "mkdir $a/box && chmod 777 $a/box && setfattr -n user.s3.sse -v aws:kms:alias/k $a/box"
daemon=$(daemons | while read -r p; do tr '\0' ' ' <"/proc/$p/cmdline" | grep -q supervise || echo "$p"; done | head -n 1)
most=600 # MiB of its own that the daemon may have in memory, whatever bob does

cat >"$T/greedy.py" <<'EOP'
import ctypes, errno, fcntl, json, os, resource, socket, struct, sys, threading
kind, top, kms, ready, go = sys.argv[1:]
soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
box, held, n = top + "/box", [], 0
room = hard - 100
def refused(do, *want):
    try:
        do()
    except OSError as e:
        assert e.errno in want, e
        return True
    return False
if kind == "open":  # one file after another, all open
    for i in range(min(2000, room)):
        fd = os.open(f"{box}/o{i}", os.O_CREAT | os.O_RDWR, 0o600)
        os.write(fd, b"x" * 100)
        held.append(fd)
    n = len(held)
elif kind == "unlinked":  # without a name
    for i in range(min(2000, room)):
        fd = os.open(box, os.O_TMPFILE | os.O_RDWR, 0o600)
        os.write(fd, b"x" * 100)
        held.append(fd)
    n = len(held)
elif kind == "xattr":  # as large as they may be
    for i in range(10):
        f = f"{box}/x{i}"
        os.close(os.open(f, os.O_CREAT | os.O_RDWR, 0o600))
        for j in range(50):
            if refused(lambda: os.setxattr(f, f"user.a{j}", os.urandom(16384)), errno.ENOSPC, errno.E2BIG, errno.EDQUOT):
                break
            n += 1
        for name in os.listxattr(f):
            os.getxattr(f, name)
elif kind == "acl":  # with as many entries as may be
    for i in range(50):
        f = f"{box}/a{i}"
        os.close(os.open(f, os.O_CREAT | os.O_RDWR, 0o600))
        acl = struct.pack("<I", 2) + struct.pack("<HHI", 1, 6, 0xffffffff)
        acl += b"".join(struct.pack("<HHI", 2, 6, 10000 + j) for j in range(500))
        acl += b"".join(struct.pack("<HHI", t, 6, 0xffffffff) for t in (4, 16, 32))
        if not refused(lambda: os.setxattr(f, "system.posix_acl_access", acl), errno.E2BIG, errno.EINVAL, errno.ENOSPC, errno.ERANGE):
            n += 1
elif kind == "lock":  # each other byte
    fd = os.open(f"{box}/l", os.O_CREAT | os.O_RDWR, 0o600)
    held.append(fd)
    while not refused(lambda: fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, 2 * n), errno.ENOLCK):
        n += 1
elif kind == "dir":  # listings of a large directory, all begun
    os.mkdir(box + "/d")
    for i in range(200):
        os.close(os.open(f"{box}/d/{i:0200d}", os.O_CREAT | os.O_WRONLY))
    libc, buf = ctypes.CDLL(None, use_errno=True), ctypes.create_string_buffer(8192)
    while len(held) < min(room, 4000):
        try:
            d = os.open(box + "/d", os.O_RDONLY | os.O_DIRECTORY)
        except OSError as e:
            assert e.errno == errno.ENFILE, e
            break
        held.append(d)
        libc.syscall(217, d, buf, 8192)
    n = len(held)
elif kind == "dirty":  # written, not closed
    for i in range(40):
        fd = os.open(f"{box}/w{i}", os.O_CREAT | os.O_WRONLY, 0o600)
        held.append(fd)
        for j in range(8):
            os.pwrite(fd, b"y" * (1 << 20), j << 20)
    n = len(held)
elif kind == "absent":  # names that are not there: the kernel keeps them as long as it likes
    for i in range(20000):
        assert not os.path.lexists(f"{box}/none{i}")
    n = 20000
elif kind == "kms":  # bodies as large as they may be, on as many connections as may be
    body = json.dumps({"KeyId": "alias/k", "Plaintext": "A" * ((1 << 20) - 100)}).encode()
    head = f"POST / HTTP/1.1\r\nHost: kms\r\nX-Amz-Target: TrentService.Encrypt\r\nContent-Type: application/x-amz-json-1.1\r\nContent-Length: {len(body)}\r\n\r\n"
    def one():
        global n
        for _ in range(4):
            try:
                s = socket.socket(socket.AF_UNIX)
                s.connect(kms)
                s.sendall(head.encode() + body[:-1])
                held.append(s)
                s.sendall(body[-1:])
                s.recv(1000)
                n += 1
            except OSError:
                pass
            held.clear()
    all = [threading.Thread(target=one) for _ in range(64)]
    [t.start() for t in all]
    [t.join() for t in all]
print(n)
open(ready, "w").close()
open(go).read()  # until that fifo is closed
EOP

# done_or_gone: bob has what he can get, or has failed.
done_or_gone() { [ -e "$T/home/bob/ready.$kind" ] || ! kill -0 "$greedy" 2>/dev/null; }
export kind greedy
share done_or_gone
rss() { awk '/^RssAnon/ {print int($2 / 1024)}' "/proc/$daemon/status"; }
works as alice sh -c "echo one >$a/box/mine"
base=$(rss)
note "the daemon has $base MiB before"
for kind in open unlinked xattr acl lock dir dirty absent kms; do
  story "$kind"
  rm -f "$T/ready" "$T/go"
  mkfifo "$T/go" && chmod 666 "$T/go"
  touch "$T/ready" && rm "$T/ready"
  as bob /usr/bin/python3 "$T/greedy.py" "$kind" "$b" "$T/store/kms.sock" "$T/home/bob/ready.$kind" "$T/go" >"$T/took" 2>&1 &
  greedy=$!
  eventually 100 done_or_gone
  works test -e "$T/home/bob/ready.$kind"
  now=$(rss)
  note "$kind: $(cat "$T/took"); the daemon has $now MiB"
  works test "$now" -le "$most"
  works as alice sh -c "echo two >$a/box/mine && cat $a/box/mine && ls $a >/dev/null"
  kill -0 "$greedy" 2>/dev/null && : >"$T/go"
  wait "$greedy"
  same "he lets go" 0 $?
done
lacks 'panic' cat "$T/store/daemon.log"
works kmsfs umount "$b"
eventually 60 grep -q 'memory tidied' "$T/store/daemon.log"
note "the daemon has $(rss) MiB when bob's mount is gone"
prints two as alice cat "$a/box/mine"

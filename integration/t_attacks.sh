#!/usr/bin/env bash
# What a stranger tried by hand: ways round the door that the kernel offers, three people under a daemon of root.
. "$(dirname "$0")/lib.sh"
needs_root
person alice
person bob
person carol

works kmsfs init
for who in alice bob; do
  works kmsfs principal create "$who" --uid "$(uid_of "$who")" --policy AmazonS3FullAccess
done
works kmsfs principal create carol --uid "$(uid_of carol)" --policy AmazonS3ReadOnlyAccess
works kmsfs bucket create box
works kmsfs bucket create other
works kmsfs serve
for who in alice bob carol; do
  mount_for "$who" "$T/home/$who/s3"
done
b=$T/home/bob/s3 c=$T/home/carol/s3
works chmod 755 "$T/home/alice" "$T/home/bob" "$T/home/carol"
works as bob sh -c "echo secret >$b/box/f; mkdir $b/box/d; echo deep >$b/box/d/g"

story "namespaces: root in one of alice's own is alice"
if as alice unshare -Urm true 2>/dev/null; then
  refused "Permission denied" as alice unshare -Urm cat "$b/box/f"
  exits 1 "" as alice unshare -Urm sh -c "mount --bind '$b' /mnt && cat /mnt/box/f"
  refused "Permission denied" as alice unshare -Urm cat "$T/store/root.key"
  exits 1 "bound|denied|permitted" as alice unshare -Ur kmsfs --as admin bucket list
  exits 1 "denied|permitted|owner" as alice unshare -Ur kmsfs stop
else
  skip "in a user namespace" "an ordinary user may make none here"
fi
for p in $(daemons); do
  exits 1 "" as alice nsenter -t "$p" -m -U true
done

WHO=root python "descriptors of bob's that reach alice and root open nothing for them" "$b" "$(uid_of alice)" "$(uid_of bob)" <<'EOP'
import ctypes, errno, os, socket, sys
top, alice, bob = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
libc = ctypes.CDLL(None, use_errno=True)
def become(uid):
    os.setgroups([]); os.setgid(uid); os.setuid(uid)
ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
class Handle(ctypes.Structure):
    _fields_ = [("bytes", ctypes.c_uint), ("type", ctypes.c_int), ("data", ctypes.c_ubyte * 128)]
if os.fork() == 0:
    become(bob)
    fds = [os.open(top + "/box", os.O_RDONLY | os.O_DIRECTORY), os.open(top + "/box", os.O_PATH), os.open(top + "/box/f", os.O_PATH)]
    h, mnt = Handle(bytes=128), ctypes.c_int()
    ok = libc.name_to_handle_at(-100, (top + "/box/f").encode(), ctypes.byref(h), ctypes.byref(mnt), 0) == 0
    socket.send_fds(theirs, [bytes(h) if ok else b"-"], fds)
    theirs.recv(1)
    os._exit(0)
said, (d, dpath, fpath), _, _ = socket.recv_fds(ours, 4096, 3)
handle = Handle.from_buffer_copy(said) if said != b"-" else None
def refused(what, do, *want):
    try:
        do()
    except OSError as e:
        assert e.errno in want, (what, e)
        return
    sys.exit(what + " went through")
def attempts(who):
    for at in (d, dpath):
        refused(who + " openat", lambda: os.open("f", os.O_RDONLY, dir_fd=at), errno.EACCES)
        refused(who + " create", lambda: os.open("new", os.O_CREAT | os.O_WRONLY, dir_fd=at), errno.EACCES)
        refused(who + " unlink", lambda: os.unlink("f", dir_fd=at), errno.EACCES)
        refused(who + " stat", lambda: os.stat("f", dir_fd=at), errno.EACCES)
        refused(who + " rename", lambda: os.rename("f", "x", src_dir_fd=at, dst_dir_fd=at), errno.EACCES)
    for path in (fpath, dpath):
        refused(who + " reopen", lambda: os.open(f"/proc/self/fd/{path}", os.O_RDONLY), errno.EACCES)
    refused(who + " truncate", lambda: os.truncate(f"/proc/self/fd/{fpath}", 0), errno.EACCES)
    refused(who + " chdir", lambda: os.fchdir(d), errno.EACCES)
    refused(who + " xattr", lambda: os.getxattr(f"/proc/self/fd/{fpath}", "user.s3.sse"), errno.EACCES, errno.EPERM)
    if handle is not None:
        def by_handle():
            if libc.open_by_handle_at(d, ctypes.byref(handle), os.O_RDONLY) < 0:
                raise OSError(ctypes.get_errno(), "open_by_handle_at")
        refused(who + " open_by_handle_at", by_handle, errno.EACCES, errno.EPERM, errno.ESTALE, errno.EOPNOTSUPP)
attempts("root")
if os.fork() == 0:
    become(alice)
    try:
        attempts("alice")
    except BaseException as e:
        print(e, file=sys.stderr)
        os._exit(1)
    os._exit(0)
status = os.wait()[1]
ours.send(b"x")
os.wait()
sys.exit(status != 0)
EOP

WHO=alice python "the daemon's descriptors, /dev/fuse and sockets among them, are not to be had" "$(daemons | tr '\n' ' ')" <<'EOP'
import ctypes, os, sys
libc = ctypes.CDLL(None, use_errno=True)
for pid in map(int, sys.argv[1].split()):
    pidfd = os.pidfd_open(pid)
    for fd in range(40):
        assert libc.syscall(438, pidfd, fd, 0) == -1 and ctypes.get_errno() == 1, (pid, fd)  # pidfd_getfd, EPERM
    for name in ("fd/3", "map_files", "cwd", "root", "maps", "task"):
        path = f"/proc/{pid}/{name}"
        try:
            os.listdir(path) if name in ("map_files", "cwd", "root") else os.open(path, os.O_RDONLY)
        except OSError:
            continue
        assert name == "task", path
EOP

WHO=carol python "reading is not writing: no call that changes something does it for carol, in either bucket" "$c" <<'EOP'
import ctypes, errno, fcntl, os, sys
top = sys.argv[1]
f = top + "/box/f"
r = os.open(f, os.O_RDONLY)
assert os.read(r, 10) == b"secret\n"
no = (errno.EACCES, errno.EPERM, errno.EXDEV, errno.EBADF, errno.ENOTTY, errno.EOPNOTSUPP, errno.EINVAL, errno.EROFS, errno.ENODATA)
def refused(what, do):
    try:
        do()
    except OSError as e:
        assert e.errno in no, (what, e)
        return
    sys.exit(what + " went through")
w = lambda name: (lambda: os.open(top + name, os.O_WRONLY | os.O_CREAT))
refused("create", w("/other/f"))
refused("hard link", lambda: os.link(f, top + "/other/l"))
refused("hard link in one bucket", lambda: os.link(f, top + "/box/l"))
refused("link of a descriptor", lambda: os.link(f"/proc/self/fd/{r}", top + "/other/l", follow_symlinks=True))
refused("O_TMPFILE", lambda: os.open(top + "/box", os.O_TMPFILE | os.O_RDWR))
refused("copy_file_range onto itself", lambda: os.copy_file_range(r, r, 3, 0, 3))
refused("fallocate", lambda: os.posix_fallocate(r, 0, 1 << 20))
refused("ftruncate", lambda: os.ftruncate(r, 0))
refused("truncate", lambda: os.truncate(f, 0))
refused("chmod of a descriptor", lambda: os.fchmod(r, 0o777))
refused("utime", lambda: os.utime(f, (0, 0)))
for name in ("user.x", "user.s3.sse", "user.s3.policy", "user.s3.key", "trusted.x", "security.x", "system.posix_acl_access"):
    refused("setxattr " + name, lambda: os.setxattr(f, name, b"AES256"))
    refused("fsetxattr " + name, lambda: os.setxattr(r, name, b"AES256"))
    refused("on the bucket " + name, lambda: os.setxattr(top + "/box", name, b"AES256"))
    refused("removexattr " + name, lambda: os.removexattr(f, name))
for code in (0x40086602, 0x401c5820, 0x40049409, 0x4004667f, 0xc0206616, 0x8004e500):  # SETFLAGS, FSSETXATTR, FICLONE, more
    refused(f"ioctl {code:x}", lambda: fcntl.ioctl(r, code, bytes(64)))
def mapped():
    import mmap
    mmap.mmap(r, 7, mmap.MAP_SHARED, mmap.PROT_WRITE)
refused("a shared mapping to write", mapped)
assert open(f).read() == "secret\n"
EOP
prints secret as bob cat "$b/box/f"
prints "" as bob ls "$b/other"

story "a directory above the mount has another name, and another's mount stands at the old one"
works as alice mkdir -p "$T/home/alice/up/m"
works as alice kmsfs mount "$T/home/alice/up/m"
works as alice mv "$T/home/alice/up" "$T/home/alice/gone"
works as alice mkdir "$T/home/alice/up"
works as alice ln -s "$b" "$T/home/alice/up/m"
attempt as alice kmsfs umount "$T/home/alice/up/m"
works is_mounted "$b"
prints secret as bob cat "$b/box/f"
attempt as alice kmsfs umount "$T/home/alice/gone/m"
attempt umount "$T/home/alice/gone/m"
works fails is_mounted "$T/home/alice/gone/m"

WHO=alice python "whoever the message says he is, and however many he sends on a connection" "$T/store" <<'EOP'
import json, os, socket, struct, sys
path = sys.argv[1] + "/control.sock"
def frame(o):
    b = json.dumps(o).encode()
    return struct.pack(">I", len(b)) + b
stop = {"version": 1, "command": "stop", "args": {}}
def ask(data, anc=()):
    s = socket.socket(socket.AF_UNIX)
    s.settimeout(60)
    s.connect(path)
    try:
        s.sendmsg([data], anc) if anc else s.sendall(data)
    except BrokenPipeError:
        pass
    except PermissionError:
        return b"EPERM"
    out = b""
    while True:
        try:
            part = s.recv(65536)
        except ConnectionResetError:
            return out
        if not part:
            return out
        out += part
claim = (socket.SOL_SOCKET, 2, struct.pack("3i", 1, 0, 0))  # SCM_CREDENTIALS of root
assert ask(frame(stop), [claim]) == b"EPERM"
for extra in ({"uid": 0}, {"peer": {"uid": 0}}, {"as": "admin"}, {"principal": "admin"}):
    said = ask(frame({**stop, **extra}))
    assert b'"error"' in said and b'"result"' not in said, (extra, said)
said = ask(frame({"version": 1, "command": "bucket.list", "args": {}}) * 3)
assert said.count(b'"result"') + said.count(b'"error"') <= 1, said
for depth in (b"[" * 1000000, b'{"version":1,"command":"stat","args":' + b'{"a":' * 500000):
    ask(struct.pack(">I", len(depth)) + depth)
many = {"version": 1, "command": "stat", "args": {"paths": [{"typed": "box/" + "*" * 50}] * 40000}}
ask(frame(many))
EOP
works as bob kmsfs bucket list

WHO=alice python "a KMS call without an end takes nothing from others" "$T/store" <<'EOP'
import socket, sys
path = sys.argv[1] + "/kms.sock"
def call(raw, patience):
    s = socket.socket(socket.AF_UNIX)
    s.settimeout(patience)
    s.connect(path)
    try:
        for _ in range(40):
            s.sendall(raw)
        return s.recv(100)
    except (BrokenPipeError, ConnectionResetError, TimeoutError):
        return b""
    finally:
        held.append(s)
held = []
head = b"POST / HTTP/1.1\r\nHost: kms\r\nX-Amz-Target: TrentService.Encrypt\r\nContent-Type: application/x-amz-json-1.1\r\n"
assert b"200" not in call(head + b"Content-Length: 99999999999\r\n\r\n" + b"[" * (1 << 18), 2)
assert b"200" not in call(head + b"Transfer-Encoding: chunked\r\n\r\n" + b"40000\r\n" + b"{" * 0x40000 + b"\r\n", 2)
assert b"200" not in call(b"X: " + b"y" * (1 << 17), 2)
EOP
works as bob kmsfs bucket list
lacks 'panic' cat "$T/store/daemon.log"

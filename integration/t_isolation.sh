#!/usr/bin/env bash
# A daemon of root that mounts for other users is a door to root unless it is narrow. Three people try it.
. "$(dirname "$0")/lib.sh"
needs_root
person alice
person bob
person carol

story "root serves; alice and bob mount for themselves, each on a directory of their own"
works kmsfs init
works kmsfs principal create alice --uid "$(uid_of alice)" --policy AmazonS3FullAccess
works kmsfs principal create bob --uid "$(uid_of bob)" --policy AmazonS3FullAccess
works kmsfs principal create carol --uid "$(uid_of carol)"
works kmsfs bucket create box
works kmsfs serve
a=$T/home/alice/s3 b=$T/home/bob/s3 c=$T/home/carol/s3
works as alice mkdir "$a"
works as bob mkdir "$b"
works as carol mkdir "$c"
works as alice kmsfs mount "$a"
works as bob kmsfs mount --principal bob "$b"
works as carol kmsfs mount "$c"
works as alice sh -c "echo 'from alice' >$a/box/f"
prints "from alice" as bob cat "$b/box/f"
prints "$(uid_of alice)" as alice stat -c %u "$a/box/f"

story "nobody enters another's mount, not even root"
refused "Permission denied" as bob ls "$a"
refused "Permission denied" as bob cat "$a/box/f"
refused "Permission denied" as carol stat "$b/box"
refused "Permission denied" ls "$a"
refused "Permission denied" cat "$b/box/f"

story "carol has no policy: she sees nothing and does nothing"
refused "Permission denied" as carol ls "$c"
refused "Permission denied" as carol ls "$c/box"
refused "Permission denied" as carol cat "$c/box/f"
refused "Permission denied" as carol sh -c "echo x >$c/box/g"
works kmsfs principal attach carol AmazonS3ReadOnlyAccess
prints "from alice" as carol cat "$c/box/f"
refused "Permission denied" as carol sh -c "echo x >$c/box/g"
refused "Permission denied" as carol rm "$c/box/f"
works kmsfs principal detach carol AmazonS3ReadOnlyAccess
refused "Permission denied" as carol cat "$c/box/f"

story "a caller acts as principals bound to his uid and as no other"
works as alice mkdir "$T/home/alice/other"
exits 1 "bob|bound|allowed|denied" as alice kmsfs mount --principal bob "$T/home/alice/other"
exits 1 "admin|bound|allowed|denied" as alice kmsfs mount --principal admin "$T/home/alice/other"
exits 1 "admin|bound|allowed|denied" as alice kmsfs --as admin key list
exits 1 "denied|authorized" as alice kmsfs principal create mallory
exits 1 "denied|authorized" as alice kmsfs principal attach alice AdministratorAccess
exits 1 "denied|authorized" as alice kmsfs key create
exits 1 "denied|allowed|owner|authorized" as alice kmsfs stop
exits 1 "denied|allowed|owner|authorized" as alice kmsfs unlock list
exits 1 "denied|authorized|owner|allowed" as alice kmsfs audit query
works as alice kmsfs bucket list

story "only on a directory that is the caller's own, by no detour"
exits 1 "denied|own|belong|permitted" as alice kmsfs mount /etc
exits 1 "denied|own|belong|permitted" as alice kmsfs mount "$T/home"
exits 1 "denied|own|belong|permitted|mount" as alice kmsfs mount "$b"
works as alice ln -s /etc "$T/home/alice/link"
exits 1 "denied|own|belong|permitted|link|not a directory" as alice kmsfs mount "$T/home/alice/link"
works mkdir -m 700 "$T/closed"
works mkdir "$T/closed/dir"
works chown "$(uid_of alice)" "$T/closed/dir"
exits 1 "denied|no such" as alice kmsfs mount "$T/closed/dir"
works as bob mkdir -m 755 "$T/home/bob/his"
exits 1 "denied|own|belong|permitted" as alice kmsfs mount "$T/home/bob/his"
prints "" sh -c "awk '/ - fuse[.]kmsfs /{print \$5}' /proc/self/mountinfo | grep -e '^/etc' -e '^$T/closed' -e '/his$' -e '/other$' || true"

story "options are a whitelist"
for option in allow_other dev suid allow_root rootmode=40000 user_id=0 context=x fsname=/dev/sda1 blkdev; do
  exits 2 "option" as alice kmsfs mount -o "$option" "$T/home/alice/other"
done
matches 'nosuid' findmnt -n -o OPTIONS "$a"
matches 'nodev' findmnt -n -o OPTIONS "$a"
matches "user_id=$(uid_of alice)" findmnt -n -o OPTIONS "$a"
lacks 'allow_other' findmnt -n -o OPTIONS "$a"
works as alice kmsfs mount -o ro,noexec "$T/home/alice/other"
matches '(^|,)ro(,|$)' findmnt -n -o OPTIONS "$T/home/alice/other"
matches 'noexec' findmnt -n -o OPTIONS "$T/home/alice/other"
prints "from alice" as alice cat "$T/home/alice/other/box/f"
refused "Read-only file system" as alice sh -c "echo x >$T/home/alice/other/box/g"
works as alice kmsfs umount "$T/home/alice/other"

story "what -o says in one word or with spaces is no way around"
for option in "ro,suid" "noexec,user_id=0" "ro,allow_other" " suid" "dev " "nosuid,dev" "fd=3" "default_permissions,rootmode=4" "sse=AES256,allow_other" 'ro\,suid'; do
  exits 2 "option" as alice kmsfs mount -o "$option" "$T/home/alice/other"
done

story "allow_other says what it gives away, and is root's alone"
works mkdir "$T/all"
matches "every user and program of this machine enters $T/all as the principal admin" kmsfs mount --principal admin -o allow_other "$T/all"
matches 'allow_other' findmnt -n -o OPTIONS "$T/all"
prints "from alice" as bob cat "$T/all/box/f" # so it is
matches '"allowOther": true' kmsfs --json status
matches 'level=WARN msg="allow_other' cat "$T/store/daemon.log"
works kmsfs umount "$T/all"

story "three users, three principals: nobody has another's mount, store, socket rights or key"
works kmsfs key create --alias for-bob --policy <(printf '%s' '{"Version":"2012-10-17","Statement":[
  {"Effect":"Allow","Principal":{"AWS":["arn:aws:iam::000000000000:user/admin"]},"Action":"kms:*","Resource":"*"},
  {"Effect":"Allow","Principal":{"AWS":["arn:aws:iam::000000000000:user/bob"]},"Action":["kms:Decrypt","kms:GenerateDataKey"],"Resource":"*"}]}')
works kmsfs bucket create bobs --sse aws:kms:alias/for-bob
works as bob sh -c "echo 'from bob' >$b/bobs/f"
prints "from bob" as bob cat "$b/bobs/f"
works kmsfs principal attach carol AmazonS3FullAccess
declare -A mount_of=([alice]=$a [bob]=$b [carol]=$c)
for who in alice bob carol; do
  for whose in alice bob carol; do
    m=${mount_of[$whose]}
    if [ "$who" = "$whose" ]; then
      works as "$who" ls "$m/box"
      continue
    fi
    refused "Permission denied" as "$who" ls "$m"
    refused "Permission denied" as "$who" cat "$m/box/f"
    refused "Permission denied" as "$who" sh -c "echo x >'$m/box/f'"
    refused "Permission denied" as "$who" stat "$m/box"
    exits 1 "denied|own|allowed|permitted|belong" as "$who" kmsfs umount "$m"
    exits 1 "bound|denied" as "$who" kmsfs --as "$whose" bucket list
    exits 1 "bound|denied" as "$who" kmsfs mount --principal "$whose" "$T/home/$who"
  done
  WHO=$who python "nothing of the store opens for $who, nor the processes that serve it" "$T/store" "$(daemons | tr '\n' ' ')" <<'EOF'
import os, sys
store, pids = sys.argv[1], sys.argv[2].split()
names = ["."] + "db redo segments audit shred root.key kmsfs.json epoch lock daemon.log".split()
targets = [f"{store}/{n}" for n in names] + [f"/proc/{p}/{n}" for p in pids for n in ("mem", "environ", "fd", "cwd/kmsfs.json", "root/etc/shadow")]
for target in targets:
    for flags in (os.O_RDONLY, os.O_WRONLY, os.O_RDWR | os.O_CREAT):
        try:
            os.open(target, flags)
        except (PermissionError, IsADirectoryError):
            continue
        sys.exit(f"{target} opened with {flags}")
    for do in (os.listdir, lambda t: os.mkdir(t + "/x"), lambda t: os.rename(t, t + ".old"), lambda t: os.link(t, "/tmp/stolen"), lambda t: os.chmod(t, 0o777)):
        try:
            do(target)
        except OSError:
            continue
        sys.exit(f"{target}: {do}")
EOF
  m=${mount_of[$who]}
  [ "$who" = bob ] || refused "Permission denied" as "$who" cat "$m/bobs/f"
  [ "$who" = bob ] || refused "Permission denied" as "$who" sh -c "echo x >'$m/bobs/mine-$who'"
done
WHO=alice python "no debugger attaches to the daemon, and no signal reaches it" "$(daemons | tr '\n' ' ')" <<'EOF'
import ctypes, os, sys
libc = ctypes.CDLL(None, use_errno=True)
for pid in map(int, sys.argv[1].split()):
    assert libc.ptrace(16, pid, None, None) == -1 and ctypes.get_errno() == 1, pid  # PTRACE_ATTACH, EPERM
    assert libc.process_vm_readv(pid, None, 0, None, 0, 0) <= 0
    try:
        os.kill(pid, 9)
    except PermissionError:
        continue
    sys.exit("the daemon could be killed")
EOF
works kmsfs principal detach carol AmazonS3FullAccess

story "a deleted or unbound user's mount ends to be his, at once"
person dave
works kmsfs principal create dave --uid "$(uid_of dave)" --policy AmazonS3ReadOnlyAccess
d=$T/home/dave/s3
works as dave mkdir "$d"
works as dave kmsfs mount "$d"
prints "from alice" as dave cat "$d/box/f"
works kmsfs principal delete dave
refused "Permission denied" as dave cat "$d/box/f"
refused "Permission denied" as dave ls "$d/box"
works kmsfs principal create dave --uid "$(uid_of dave)" --policy AmazonS3ReadOnlyAccess
refused "Permission denied" as dave cat "$d/box/f" # another of that name
works as dave kmsfs umount "$d"

WHO=alice LIMIT=120 python "a mount point that is swapped for a link while root mounts on it never leads elsewhere" "$T/home/alice" <<'EOF'
import os, subprocess, sys, threading
home = sys.argv[1]
race, spare, link = home + "/race", home + "/spare", home + "/racelink"
os.mkdir(race)
os.symlink("/etc", link)
stop = threading.Event()
def swap():
    while not stop.is_set():
        try:
            os.rename(race, spare)
            os.rename(link, race)   # race is the link now
            os.rename(race, link)
            os.rename(spare, race)
        except OSError:
            pass                    # something is mounted there at the moment
t = threading.Thread(target=swap)
t.start()
made = 0
for _ in range(8):
    for target in (race, race + "/ssl"):
        if subprocess.run(["kmsfs", "mount", target], capture_output=True).returncode == 0:
            made += 1
            for line in open("/proc/self/mountinfo"):
                f = line.split()
                if " - fuse.kmsfs " in line and f[4].startswith(home + "/") and ("/race" in f[4] or "/spare" in f[4]):
                    subprocess.run(["kmsfs", "umount", "--lazy", f[4]], capture_output=True)
stop.set()
t.join()
for line in open("/proc/self/mountinfo"):
    f = line.split()
    assert not (" - fuse.kmsfs " in line and f[4].startswith("/etc")), line
for line in open("/proc/self/mountinfo"):
    f = line.split()
    if " - fuse.kmsfs " in line and ("/race" in f[4] or "/spare" in f[4]):
        subprocess.run(["kmsfs", "umount", "--lazy", f[4]], capture_output=True)
print(made, "mounts were made")
EOF

python "one user's connections, open or silent, are no other's lack" "$T/store" "$(uid_of alice)" "$(uid_of bob)" "$T/bin/kmsfs" <<'EOF'
import os, signal, socket, subprocess, sys
store, alice, bob, kmsfs = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
r, w = os.pipe()
pid = os.fork()
if pid == 0:
    os.close(r)
    os.setgroups([]); os.setgid(alice); os.setuid(alice)
    held = []
    for name in ("control.sock", "kms.sock"):
        for _ in range(300):
            s = socket.socket(socket.AF_UNIX)
            s.settimeout(5)
            try:
                s.connect(store + "/" + name)
            except OSError:
                break
            held.append(s)
    os.write(w, b"x")
    signal.pause()   # until killed
os.close(w)
assert os.read(r, 1) == b"x"
try:
    def demote():
        os.setgroups([]); os.setgid(bob); os.setuid(bob)
    out = subprocess.run([kmsfs, "bucket", "list"], preexec_fn=demote, capture_output=True, timeout=30)
    assert out.returncode == 0 and b"box" in out.stdout, out
    s = socket.socket(socket.AF_UNIX)
    child = os.fork()
    if child == 0:
        demote()
        s.settimeout(20)
        s.connect(store + "/kms.sock")
        s.sendall(b"POST / HTTP/1.1\r\nHost: kms\r\nX-Amz-Target: TrentService.ListKeys\r\nContent-Type: application/x-amz-json-1.1\r\nContent-Length: 2\r\n\r\n{}")
        os._exit(0 if s.recv(9) == b"HTTP/1.1 " else 1)
    assert os.waitpid(child, 0)[1] == 0, "kms.sock"
finally:
    os.kill(pid, 9)
    os.waitpid(pid, 0)
EOF

story "what a caller's or root's environment says moves no daemon of root"
works mkdir "$T/evil"
printf '#!/bin/sh\ntouch %s/ran\nexit 1\n' "$T/evil" >"$T/evil/fusermount3"
works chmod -R 755 "$T/evil"
works chmod 777 "$T/evil"
works as alice env PATH="$T/evil:$PATH" _FUSE_COMMFD=7 LD_PRELOAD="$T/evil/none.so" FUSERMOUNT_PROG="$T/evil/fusermount3" kmsfs mount "$T/home/alice/other"
prints "from alice" as alice cat "$T/home/alice/other/box/f"
works as alice env PATH="$T/evil:$PATH" kmsfs umount "$T/home/alice/other"
refused "No such file" ls "$T/evil/ran"

story "unmounting is for whoever mounted, and for root"
exits 1 "denied|own|allowed|permitted|belong" as alice kmsfs umount "$b"
works as bob ls "$b"
works as alice kmsfs umount "$a"
works kmsfs umount "$b"
works as carol kmsfs umount "$c"

story "the store itself is closed to others"
works chmod 755 "$T"
for f in root.key kmsfs.json; do
  refused "Permission denied" as alice cat "$T/store/$f"
done
refused "Permission denied" as alice ls "$T/store/db"
refused "Permission denied" as alice ls "$T/store/segments"
refused "Permission denied" as alice ls "$T/store/audit"
exits 1 "denied|permi|store" as alice env KMSFS_STORE="$T/home/bob/none" kmsfs bucket list

story "root makes and opens no store in a directory of somebody else's, whose links it would follow"
works as alice mkdir "$T/home/alice/trap" "$T/home/alice/empty"
works touch "$T/victim"
works chmod 600 "$T/victim"
for f in kmsfs.json root.key; do
  works as alice ln -s "$T/store/$f" "$T/home/alice/trap/$f"
done
for f in daemon.log control.sock lock; do
  works as alice ln -s "$T/victim" "$T/home/alice/trap/$f"
done
exits 1 "no plain file" kmsfs --store "$T/home/alice/trap" serve
exits 1 "no plain file" kmsfs --store "$T/home/alice/trap" bucket list
works as alice rm "$T/home/alice/trap/kmsfs.json"
works cp "$T/store/kmsfs.json" "$T/home/alice/trap/kmsfs.json" # root's own, in a directory of hers
exits 1 "belongs to uid $(uid_of alice)" kmsfs --store "$T/home/alice/trap" serve
exits 1 "belongs to uid $(uid_of alice)" kmsfs --store "$T/home/alice/trap" bucket list
exits 1 "belongs to uid $(uid_of alice)" kmsfs --store "$T/home/alice/empty" init
prints "600 0" stat -c '%a %s' "$T/victim"

story "special files: devices for root alone, and none of them opens"
works kmsfs mount --principal admin "$(mkdir "$T/m" && echo "$T/m")"
works mknod "$T/m/box/null" c 1 3
refused "Permission denied" cat "$T/m/box/null"
works cp /usr/bin/id "$T/m/box/id"
works chmod 4755 "$T/m/box/id"
works kmsfs umount "$T/m"

story "without root, a user's own store and mount, through fusermount3"
let_all_use_fuse
export KMSFS_STORE=$T/home/alice/store
works as alice kmsfs init
works as alice kmsfs mount "$a"
works as alice mkdir "$a/mine"
works as alice sh -c "echo mine >$a/mine/f"
refused "Permission denied" ls "$a"
refused "Permission denied" as bob ls "$a"
works as alice kmsfs umount "$a"
export KMSFS_STORE=$T/store

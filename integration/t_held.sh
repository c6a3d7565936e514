#!/usr/bin/env bash
# Somebody holds a directory in his kernel, by a listing into memory that never comes: the others go on, the daemon ends and is followed by
# another, in order or killed, although one of its threads waits in his kernel and cannot be ended.
. "$(dirname "$0")/lib.sh"
needs_root
here=$(cd "$(dirname "$0")" && pwd)
export here
person alice
person bob

works kmsfs init
for who in alice bob; do
  works kmsfs principal create "$who" --uid "$(uid_of "$who")" --policy AmazonS3FullAccess
done
works kmsfs bucket create box
a=$T/home/alice/s3 b=$T/home/bob/s3
main_daemon() { daemons | while read -r p; do tr '\0' ' ' <"/proc/$p/cmdline" | grep -q supervise || echo "$p"; done | head -n 1; }
gone() { ! kill -0 "$1" 2>/dev/null; }
share gone
soon() { # soon WHAT CMD...: within 20 seconds CMD must succeed
  local what=$1
  shift
  eventually 20 "$@"
  same "$what" 0 $?
}

# hang: a file system with one file f, owned by root and open to all, whose content never comes.
cat >"$T/hang.py" <<'EOP'
import ctypes, os, struct, sys
top, reached = sys.argv[1:]
libc = ctypes.CDLL(None, use_errno=True)
fd = os.open("/dev/fuse", os.O_RDWR)
options = f"fd={fd},rootmode=40000,user_id=0,group_id=0,allow_other"
assert libc.mount(b"hang", top.encode(), b"fuse", 0, options.encode()) == 0, os.strerror(ctypes.get_errno())
def attr(node):
    directory = node == 1
    return struct.pack("<6Q3I7I", node, 0 if directory else 4096, 8, 0, 0, 0, 0, 0, 0, 0o40755 if directory else 0o100666, 1, 0, 0, 0, 4096, 0)
def answer(unique, body=b"", error=0):
    os.write(fd, struct.pack("<IiQ", 16 + len(body), error, unique) + body)
while True:
    try:
        m = os.read(fd, 1 << 21)
    except OSError:
        break
    _, op, unique, node = struct.unpack_from("<IIQQ", m)
    if op == 26:  # INIT
        answer(unique, struct.pack("<4IHHII36x", 7, 31, 4096, 0, 16, 12, 4096, 1))
    elif op == 1:  # LOOKUP
        answer(unique, struct.pack("<4Q2I", 2, 0, 3600, 3600, 0, 0) + attr(2))
    elif op == 3:  # GETATTR
        answer(unique, struct.pack("<QII", 3600, 0, 0) + attr(node))
    elif op == 14:  # OPEN
        answer(unique, struct.pack("<QII", 0, 0, 0))
    elif op == 15:  # READ: never
        open(reached, "w").close()
    elif op not in (2, 42):  # FORGET
        answer(unique, error=-38)
EOP
cat >"$T/hold.py" <<'EOP'
import ctypes, mmap, os, sys
libc = ctypes.CDLL(None, use_errno=True)
f = os.open(sys.argv[2], os.O_RDWR)
m = mmap.mmap(f, 4096, mmap.MAP_PRIVATE, mmap.PROT_READ | mmap.PROT_WRITE)
room = ctypes.addressof(ctypes.c_char.from_buffer(m))
d = os.open(sys.argv[1], os.O_RDONLY | os.O_DIRECTORY)
libc.syscall(217, d, ctypes.c_void_p(room), 4096)  # getdents64
EOP

# keys_in PID: how many expanded keys of AES lie in the memory that the threads of a process still have, locked and elsewhere; of one that
# is dead the first has none, but all have the same.
keys_in() {
  local t
  for t in "/proc/$1/task"/*; do
    grep -q '^VmRSS' "$t/status" && /usr/bin/python3 "$here/aeskeys.py" "${t##*/}" && return
  done
}
rss_of() { awk '/^VmRSS/ {n = $2 > n ? $2 : n} END {print n + 0}' "/proc/$1/task"/*/status; }
# little_left PID: less than a twentieth of what the daemon had is left of its memory.
little_left() { test "$(rss_of "$1")" -lt $((had / 20)); }
share keys_in rss_of little_left

# hold: alice holds box until letgo.
hold() {
  mkdir -p "$T/hang"
  rm -f "$T/reached"
  python3 "$T/hang.py" "$T/hang" "$T/reached" &
  hanging=$!
  soon "it hangs there" mountpoint -q "$T/hang"
  as alice python3 "$T/hold.py" "$a/box" "$T/hang/f" &
  soon "the listing hangs" test -e "$T/reached"
}
letgo() {
  kill -9 "$hanging" # with its descriptor the connection ends, and with that the read
  wait "$hanging" 2>/dev/null
  soon "it is let go" umount "$T/hang"
}

# begin: a daemon, two mounts, and alice has the names of box cached.
begin() {
  works kmsfs serve
  mount_for alice "$a"
  mount_for bob "$b"
  works as bob sh -c "for i in 1 2 3 4; do echo \$i >$b/box/f\$i; done"
  works as alice sh -c "cat $a/box/f*"
}

story "alice holds a directory: bob works on in it"
begin
hold
began=$(date +%s)
works as bob sh -c "for i in 1 2 3 4; do mv $b/box/f\$i $b/box/g\$i; done"
took=$(($(date +%s) - began))
note "four renames took $took s"
works test "$took" -le 12
prints 4 as bob cat "$b/box/g4"
works kmsfs bucket list

story "the daemon is killed meanwhile: another takes its place, at once"
victim=$(main_daemon)
export had
had=$(rss_of "$victim")
note "keys in its memory, locked and not: $(keys_in "$victim")"
works fails test "$(keys_in "$victim")" = "0 0"
works kill -9 "$victim"
soon "its mounts are ended" fails is_mounted "$b"
works kmsfs serve
mount_for bob "$b"
prints 4 as bob cat "$b/box/g4"
works as bob sh -c "echo new >$b/box/new"
works kmsfs stop
works fails gone "$victim"
soon "its memory is taken from it" little_left "$victim"
note "of $had KiB it has $(rss_of "$victim") KiB, and keys: $(keys_in "$victim")"
lacks '[1-9]' keys_in "$victim"
note "the one that was killed is $(awk '/^State/ {print $2, $3}' "/proc/$victim/status"): a thread of it waits for alice"
letgo
soon "the last of the daemon is gone" gone "$victim"

story "the daemon is stopped meanwhile"
works as bob true
begin
hold
works as bob mv "$b/box/f1" "$b/box/h1"
victim=$(main_daemon)
had=$(rss_of "$victim")
works kmsfs stop
works fails gone "$victim"
soon "its memory is taken from it" little_left "$victim"
note "of $had KiB it has $(rss_of "$victim") KiB, and keys: $(keys_in "$victim")"
lacks '[1-9]' keys_in "$victim"
works kmsfs serve
mount_for bob "$b"
prints 1 as bob cat "$b/box/h1"
letgo
soon "the last of the daemon is gone" gone "$victim"
prints new as bob cat "$b/box/new"
lacks 'panic' cat "$T/store/daemon.log"

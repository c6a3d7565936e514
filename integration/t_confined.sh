#!/usr/bin/env bash
# What a running daemon has left of its rights, as the kernel tells it. What it can no longer do is tried from inside by
# TestConfine in mount/host.
. "$(dirname "$0")/lib.sh"
needs_root
person alice
ulimit -c unlimited # the daemon must not keep it

# process WHICH: the daemon's process (serve, mount) or its supervisor's (supervise).
process() {
  local p
  for p in $(daemons); do
    ! tr '\0' '\n' <"/proc/$p/cmdline" | grep -qx "$1" || echo "$p"
  done
}

# threads PID FIELD: the values of a field of /proc/PID/status over all threads.
threads() {
  grep -h "^$2:" "/proc/$1/task"/*/status | cut -f2 | sort -u
}

# confined PID: the checks that hold for every daemon.
confined() {
  prints 0000000000000000 threads "$1" CapEff
  prints 0000000000000000 threads "$1" CapPrm
  prints 1 threads "$1" NoNewPrivs
  prints 2 threads "$1" Seccomp
  matches 'Max core file size +0 +0 ' cat "/proc/$1/limits"
}
share threads

# schedules PID: how many expanded AES keys lie in locked pages of a process, and how many elsewhere in its memory.
here=$(cd "$(dirname "$0")" && pwd)
export here
schedules() { /usr/bin/python3 "$here/aeskeys.py" "$1"; }
# keys_locked PID: there are some, and all are in locked pages.
keys_locked() {
  if [ "$(uname -m)" = x86_64 ]; then
    LIMIT=300 matches '^[1-9][0-9]* 0$' schedules "$1"
  else
    skip "expanded keys lie in locked pages" "where they are is known of x86_64 alone"
  fi
}
share schedules

none=0000000000000000
mounting=00000000002000c6 # SYS_ADMIN, SETUID, SETGID, DAC_OVERRIDE, DAC_READ_SEARCH

story "a daemon of root has no capability and can gain none; its supervisor has those to mount for others"
works kmsfs init
works kmsfs principal create alice --uid "$(uid_of alice)" --policy AmazonS3FullAccess
works kmsfs bucket create box
works kmsfs serve
daemon=$(process serve) supervisor=$(process supervise)
confined "$daemon"
prints "$none" threads "$daemon" CapBnd
prints "$mounting" threads "$supervisor" CapEff
prints "$mounting" threads "$supervisor" CapBnd
prints 1 threads "$supervisor" NoNewPrivs
prints 2 threads "$supervisor" Seccomp
matches 'Max core file size +0 +0 ' cat "/proc/$supervisor/limits"
if grep -qE 'confined landlock=[1-9]' "$T/store/daemon.log"; then
  matches 'msg=confined landlock=[1-9][0-9]* seccomp=true' cat "$T/store/daemon.log"
else
  skip "landlock is in force" "this kernel has none"
fi

story "it mounts all the same: for alice, below a directory that is closed to everyone else, and for root"
works as alice mkdir -m 700 "$T/home/alice/closed" "$T/home/alice/closed/s3"
a=$T/home/alice/closed/s3
works as alice kmsfs mount "$a"
works as alice sh -c "echo hers >$a/box/f"
works kmsfs mount --principal admin "$(mkdir "$T/m" && echo "$T/m")"
prints hers cat "$T/m/box/f"
works sh -c "head -c 3000000 /dev/urandom >$T/m/box/long"
exec 7<"$T/m/box/long"
works sh -c "cat <&7 | wc -c"
keys_locked "$daemon"
lacks 'keys:' kmsfs status
matches '"keysLocked": true' kmsfs status --json
exec 7<&-
works as alice kmsfs umount "$a"
works kmsfs mount --principal alice "$a"
prints hers as alice cat "$a/box/f"
works kmsfs umount "$a"
prints 2048 sh -c "cat /sys/class/bdi/\$(awk -v d='$T/m' '\$5 == d {print \$3}' /proc/self/mountinfo)/read_ahead_kb"

story "key files are read by the command, not by the daemon"
works kmsfs unlock add key-file "$T/outside.key"
works kmsfs unlock list
works kmsfs umount "$T/m"
stop_daemon
works mv "$T/store/root.key" "$T/root.key.away"
works kmsfs bucket list

story "without the supervisor there is no new mount, and the others go on"
works kmsfs serve
works kmsfs mount --principal admin "$T/m"
kill -9 "$(process supervise)"
prints hers cat "$T/m/box/f"
exits 1 "supervisor" as alice kmsfs mount "$a"
works umount "$T/m"
stop_daemon

story "--no-sandbox turns it off, and the log says so"
works kmsfs serve --no-sandbox
differs "capabilities are kept" "$none" "$(threads "$(process serve)" CapEff)"
prints 0 threads "$(process serve)" Seccomp
matches 'no-sandbox' cat "$T/store/daemon.log"
works kmsfs stop

story "an ordinary user's daemon: fusermount3 needs its set-uid bit, so the supervisor may gain by it and the daemon may not"
let_all_use_fuse
export KMSFS_STORE=$T/home/alice/store
works as alice kmsfs init
works as alice kmsfs mount "$a"
daemon=$(process serve) supervisor=$(process supervise)
confined "$daemon"
prints "$none" threads "$supervisor" CapEff
prints 0 threads "$supervisor" NoNewPrivs
works as alice mkdir "$a/mine"
works as alice sh -c "echo x >$a/mine/f"
prints x as alice cat "$a/mine/f"
keys_locked "$daemon"

story "nor does it let its own user look into its memory"
for p in "$daemon" "$supervisor"; do
  prints 0 stat -c %u "/proc/$p/mem" # root's: the process is not dumpable
  refused "Permission denied" as alice cat "/proc/$p/environ"
  refused "Permission denied" as alice sh -c "exec 3</proc/$p/mem"
done
works as alice kmsfs umount "$a"

story "whose keys are not in locked memory is told so"
eventually 20 no_daemon || die "the daemon did not end"
works as alice prlimit --memlock=0:0 kmsfs serve
matches 'keys: +not all in locked memory' as alice kmsfs status
matches '"keysLocked": false' as alice kmsfs --json status
matches 'level=WARN msg="the memory of keys is not locked' cat "$T/home/alice/store/daemon.log"
works as alice kmsfs stop
works as alice kmsfs serve
lacks 'not all in locked memory' as alice kmsfs status
matches '"keysLocked": true' as alice kmsfs --json status
works as alice kmsfs stop

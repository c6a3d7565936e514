#!/usr/bin/env bash
# The daemon's life: in the background and in the foreground, started by a mount or by serve, ended by its last mount, by
# SIGTERM, by SIGKILL. What was closed is there afterwards, and nobody hangs.
. "$(dirname "$0")/lib.sh"
needs_root
person alice

new_store
works kmsfs principal create alice --uid "$(uid_of alice)" --policy AmazonS3FullAccess
count_daemons() { daemons | wc -l; }
main_daemon() { daemons | while read -r p; do tr '\0' ' ' <"/proc/$p/cmdline" | grep -q supervise || echo "$p"; done | head -n 1; }
gone() { ! is_mounted "$1"; }
share count_daemons gone

story "a command without a daemon leaves none behind; several at once wait for one another"
works kmsfs bucket create box
prints "" daemons
works bash -c 'for i in 1 2 3 4 5 6; do kmsfs bucket create many-$i & p="$p $!"; done; for i in $p; do wait $i || exit 1; done'
prints 6 sh -c "kmsfs bucket list | grep -c many-"
prints "" daemons

story "mount starts a daemon in the background and returns when the mount is usable"
mkdir "$T/m" "$T/m2"
works kmsfs mount "$T/m"
works touch "$T/m/box/at-once"
matches "$T/m" kmsfs status
works kmsfs mount "$T/m2"
works touch "$T/m2/box/second"
works kmsfs bucket create while-mounted
works test -d "$T/m/while-mounted"

story "it ends with its last mount"
works kmsfs umount "$T/m"
works ls "$T/m2/box"
works umount "$T/m2" # by hand, as a person would
within 60 no_daemon

story "serve stays without mounts, until stop"
works kmsfs serve
matches 'pid|serving|running' kmsfs status
works kmsfs mount "$T/m"
works kmsfs umount "$T/m"
works sh -c "kmsfs status && kmsfs bucket list"
differs "a daemon is there" "" "$(daemons)"
works kmsfs mount "$T/m"
works kmsfs stop
within 60 no_daemon
refused "" is_mounted "$T/m"
matches "no daemon" kmsfs stop

story "a mount that is taken away while it is in use leaves its directory to the next"
works kmsfs serve
works kmsfs mount "$T/m"
exec 8<"$T/m/box/at-once"
works kmsfs umount --lazy "$T/m"
refused "" is_mounted "$T/m"
works kmsfs mount "$T/m"
works test -e "$T/m/box/second"
works cat /proc/self/fd/8
exec 8<&-
works kmsfs umount "$T/m"
works kmsfs stop
within 15 no_daemon

story "while one client asks, one processor of two is kept awake; not without requests, and not with --no-spin"
supervisor() { daemons | while read -r p; do tr '\0' ' ' <"/proc/$p/cmdline" | grep -q supervise && echo "$p"; done; }
# What threads of the lowest priority have used of the processor, in ticks; nothing if there are none.
spun() { awk '$19 == 19 { n += $14 + $15; any = 1 } END { if (any) print n }' "/proc/$(supervisor)"/task/*/stat; }
asks() { /usr/bin/python3 -c 'import os, sys
for i in range(20000): os.utime(sys.argv[1])' "$T/m/box/at-once"; }
spins() { [ -n "$(spun)" ]; }
ran() { asks && [ "$(spun)" -gt "$before" ]; } # not at once where others have the processors
share supervisor spun asks spins ran
if [ "$(cat /sys/devices/system/cpu/online)" = 0-1 ]; then
  works kmsfs mount "$T/m"
  within 20 spins
  before=$(spun)
  export before
  within 60 ran
  before=$(spun)
  /usr/bin/python3 -c 'import time; time.sleep(1)' # nobody asks
  same "it slept" yes "$([ "$(spun)" -le $((before + 5)) ] && echo yes)"
  works kmsfs umount "$T/m"
  within 60 no_daemon
else
  echo "  (skipped: this machine has not two processors, so none is kept awake)"
fi
works env KMSFS_NO_SPIN=1 kmsfs mount "$T/m"
prints "" spun
works asks
prints "" spun
works kmsfs umount "$T/m"
within 60 no_daemon

story "serve and mount in the foreground"
kmsfs serve --foreground >"$T/fg.out" 2>&1 &
fg=$!
within 60 test -S "$T/store/control.sock"
within 60 kmsfs mount "$T/m"
works touch "$T/m/box/fg"
kill -TERM "$fg"
wait "$fg"
same "exit status after SIGTERM" 0 $?
refused "" is_mounted "$T/m"
within 60 no_daemon
kmsfs mount --foreground "$T/m" >"$T/fg.out" 2>&1 &
fg=$!
within 60 is_mounted "$T/m"
works touch "$T/m/box/fg2"
works umount "$T/m"
within 60 fails kill -0 "$fg"
wait "$fg"
same "exit status after an unmount" 0 $?
within 60 no_daemon

story "SIGTERM: what is still open is written first, then every mount goes"
works kmsfs mount "$T/m"
works kmsfs mount "$T/m2"
/usr/bin/python3 - "$T/m/box/held" <<'EOF' &
import os, sys, time
fd = os.open(sys.argv[1], os.O_CREAT | os.O_WRONLY, 0o644)
os.write(fd, b"written, not closed")
time.sleep(3)
EOF
holder=$!
within 60 test -s "$T/m/box/held"
kill -TERM "$(main_daemon)"
within 60 no_daemon
prints "" mounts_below "$T"
wait "$holder"
works kmsfs mount "$T/m"
prints "written, not closed" cat "$T/m/box/held"
works kmsfs umount "$T/m"
within 60 no_daemon

story "SIGKILL: users get an error, not a hang; what was closed before is there; the mount can be made again"
mount_for alice "$T/ma"
works kmsfs mount "$T/m"
works sh -c "echo closed >$T/m/box/closed"
works sh -c "mkdir $T/m/box/dir && mv $T/m/box/closed $T/m/box/dir/moved"
works as alice sh -c "for i in \$(seq 200); do echo \$i >$T/ma/box/n\$i; done"
works sh -c "seq 100000 >$T/m/box/numbers"
/usr/bin/python3 - "$T/m/box/numbers" <<'EOF' &
import os, sys
fd = os.open(sys.argv[1], os.O_RDONLY)
while True:
    try:
        os.pread(fd, 65536, 0)
        os.utime(fd)  # what the kernel may not answer from its cache
    except OSError:
        break
EOF
reader=$!
victim=$(main_daemon)
kill -9 "$victim"
within 60 fails kill -0 "$victim"
within 60 fails kill -0 "$reader"
attempt stat "$T/m/box/numbers"
same "a stat after the kill ends" yes "$([ "$status" -ne 124 ] && [ "$status" -ne 0 ] && echo yes)"
works kmsfs mount "$T/m"
prints closed cat "$T/m/box/dir/moved"
prints 200 sh -c "ls $T/m/box | grep -c '^n[0-9]'"
prints 200 cat "$T/m/box/n200"
works sh -c "seq 100000 | cmp - $T/m/box/numbers"
refused "No such file" stat "$T/m/box/closed"
mount_for alice "$T/ma"
prints 1 as alice cat "$T/ma/box/n1"

story "killed in the middle of writing, ten times: closed files are whole, unclosed ones harmless"
works mkdir "$T/m/box/crash"
for round in $(seq 10); do
  is_mounted "$T/m" || works kmsfs mount "$T/m"
  bash -c 'for ((i = 0; ; i++)); do
      f=$1/box/crash/$2-$i
      seq $i $((i + 2000)) >"$f" 2>/dev/null || exit 0
      echo "$i" >>"$3"
    done' bash "$T/m" "$round" "$T/closed-$round" 2>/dev/null &
  writer=$!
  eventually 60 test -s "$T/closed-$round" || die "nothing was written"
  sleep 0.$((RANDOM % 5 + 2))
  kill -9 "$(main_daemon)"
  wait "$writer" 2>/dev/null
  eventually 60 kmsfs mount "$T/m" || die "cannot mount after a kill: $(cat "$T/.io/err")"
done
intact() {
  local round i
  for round in $(seq 10); do
    while read -r i; do
      seq "$i" $((i + 2000)) | cmp - "$T/m/box/crash/$round-$i" || return 1
    done <"$T/closed-$round"
  done
}
share intact
works intact
works kmsfs fsck --data
works kmsfs gc
works intact
note "$(cat "$T"/closed-* | wc -l) files had been closed"
works rm -r "$T/m/box/crash"
works kmsfs umount "$T/m"

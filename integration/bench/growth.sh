#!/usr/bin/env bash
# growth.sh: what becomes of speed, memory and disk when a store grows. It measures create, stat, open and unlink with 10,000 files in
# the store and again with FILES (1000000), all names of the difference in one directory; the memory that listing that directory
# takes; how long a mount takes then; and how a random-write load on a file of SIZE_MIB (10240) keeps its rate and its room on
# the disk. Prints a table with the bounds, and fails if one is missed and BOUNDS=1 (the default).
#
# Environment: FILES, SIZE_MIB; BATCH, files in one measurement (5000); SECONDS_RANDOM, length of the random-write load (120);
# PARTS ("files random"), which halves to run; BOUNDS=0 only reports. Rates are the best of three, for the machine has other work too.
KMSFS=${KMSFS:-$(cd "$(dirname "$0")/../.." && pwd)/bin/kmsfs}
. "$(dirname "$0")/../lib.sh"
needs_root
files=${FILES:-1000000} size=${SIZE_MIB:-10240} batch=${BATCH:-5000} seconds=${SECONDS_RANDOM:-120}
LIMIT=7200

cat >"$T/rates.py" <<'EOF'
# rates.py WHAT DIR COUNT: does it COUNT times and prints how often a second.
import os, sys, time
what, d, n = sys.argv[1], sys.argv[2], int(sys.argv[3])
names = [f"{d}/f{i:07}" for i in range(n)]
def create(p): os.close(os.open(p, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644))
def content(p):
    fd = os.open(p, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644); os.write(fd, b"x" * 100); os.close(fd)
def opened(p): os.close(os.open(p, os.O_RDONLY))
fn = {"create": create, "fill": content, "stat": os.stat, "open": opened, "unlink": os.unlink}[what]
os.makedirs(d, exist_ok=True)
begin = time.perf_counter()
for p in names: fn(p)
print(f"{n / (time.perf_counter() - begin):.0f}")
EOF
cat >"$T/list.py" <<'EOF'
# list.py DIR: counts the names, keeping none.
import os, sys
with os.scandir(sys.argv[1]) as it: print(sum(1 for _ in it))
EOF

# rss STORE: anonymous resident memory of its daemon, in KiB.
rss() {
  awk '/^RssAnon/ {print $2}' "/proc/$(daemon_of "$1")/status"
}

# daemon_of STORE: the process that serves it, not the one that looks after that.
daemon_of() {
  local p
  for p in $(daemons); do
    [[ $({ tr '\0' ' ' <"/proc/$p/cmdline"; } 2>/dev/null) != *"--store $1 serve "* ]] || echo "$p"
  done | head -n 1
}

# watch_rss STORE FILE: writes the most that rss ever says to FILE, until it is killed.
watch_rss() {
  local most=0 v status
  status=/proc/$(daemon_of "$1")/status
  while v=$(awk '/^RssAnon/ {print $2}' "$status"); do
    [ "$v" -le "$most" ] || echo $((most = v)) >"$2"
    sleep 0.1
  done
}

# use few|many: the store that the commands below mean, mounted on $T/few or $T/many.
use() {
  export KMSFS_STORE=$T/store-$1
  m=$T/$1
}

remount() {
  ! is_mounted "$m" || works kmsfs umount "$m"
  until [ -z "$(daemon_of "$KMSFS_STORE")" ]; do sleep 0.1; done
  mount_for admin "$m"
}

# row WHAT VALUE BOUND OK
row() {
  printf '%s\t%s\t%s\t%s\n' "$1" "$2" "$3" "$4" >>"$T/table"
  printf '#   %-58s %12s   %-14s %s\n' "$1" "$2" "$3" "$4"
}

# bound WHAT VALUE OP LIMIT UNIT: a row, and a check if BOUNDS=1.
bound() {
  local ok
  ok=$(awk -v a="$2" -v b="$4" -v op="$3" 'BEGIN {print ((op == "<=" ? a <= b : a >= b) ? "yes" : "no")}')
  row "$1" "$2 $5" "$3 $4" "$ok"
  [ "${BOUNDS:-1}" = 0 ] || same "$1 $3 $4 $5" yes "$ok"
}

best() {
  sort -n | tail -n 1
}

# measure: the four rates in both stores, one right after the other, three times, into $T/rates.STORE.WHAT.
measure() {
  local what which
  for _ in 1 2 3; do
    for what in create stat open unlink; do
      for which in few many; do
        use $which
        case $what in stat | open) remount >/dev/null ;; esac # the kernel knows nothing of them then
        /usr/bin/python3 "$T/rates.py" $what "$m/growth/batch" "$batch" >>"$T/rates.$which.$what"
      done
    done
  done
}

files_part() {
  local what before after began
  story "rates with 10,000 files, and with $files"
  works /usr/bin/python3 "$T/rates.py" fill "$T/few/growth/names" 10000
  works /usr/bin/python3 "$T/rates.py" fill "$T/many/growth/names" "$files"
  note "filled at $(cat "$T/.io/out") files/s"
  measure
  for what in create stat open unlink; do
    before=$(best <"$T/rates.few.$what") after=$(best <"$T/rates.many.$what")
    row "$what, 10,000 files in the store" "$before /s" "" ""
    row "$what, $files files in the store" "$after /s" "" ""
    bound "$what: ratio" "$(awk -v a="$after" -v b="$before" 'BEGIN {printf "%.2f", a / b}')" ">=" 0.8 ""
  done

  story "mount with $files files"
  use many
  works kmsfs umount "$m"
  until [ -z "$(daemon_of "$KMSFS_STORE")" ]; do sleep 0.1; done
  began=$EPOCHREALTIME
  works kmsfs mount --principal admin "$m"
  bound "mount" "$(awk -v a="$began" -v b="$EPOCHREALTIME" 'BEGIN {printf "%.2f", b - a}')" "<=" 1 s

  story "a directory of $files names"
  row "memory before listing (RssAnon)" "$(($(rss "$KMSFS_STORE") / 1024)) MiB" "" ""
  watch_rss "$KMSFS_STORE" "$T/most" &
  watcher=$!
  until [ -s "$T/most" ]; do sleep 0.1; done
  began=$EPOCHREALTIME
  prints "$files" /usr/bin/python3 "$T/list.py" "$m/growth/names"
  row "listing it" "$(awk -v a="$began" -v b="$EPOCHREALTIME" 'BEGIN {printf "%.1f", b - a}') s" "" ""
  bound "memory while listing" "$(($(cat "$T/most") / 1024))" "<=" 600 MiB
  kill "$watcher"
  row "rows on the disk" "$(du -sm "$KMSFS_STORE/db" | cut -f1) MiB" "" ""
}

# stored: MiB that the extents take on the disk.
stored() {
  du -sm "$KMSFS_STORE/segments" | cut -f1
}

beside() {
  /usr/bin/python3 "$T/rates.py" fill "$1" 500 && /usr/bin/python3 "$T/rates.py" unlink "$1" 500
}

random_part() {
  local live=$size rates most=0 s long=0 began
  use few
  story "random writes of 4 KiB for $seconds s over a file of $size MiB, with four mounts"
  for k in 2 3 4; do mount_for admin "$T/m$k"; done
  works dd if=/dev/zero of="$m/growth/big" bs=1M count="$size" status=none
  watch_rss "$KMSFS_STORE" "$T/most-random" &
  watcher=$!
  for k in 2 3 4; do # the other mounts are not idle
    while beside "$T/m$k/growth/beside$k"; do sleep 1; done >/dev/null 2>&1 &
  done
  fio --name=growth --filename="$m/growth/big" --size="${size}m" --rw=randwrite --bs=4k --ioengine=psync --norandommap --runtime="$seconds" \
    --time_based --overwrite=1 --write_iops_log="$T/iops" --log_avg_msec=1000 --output-format=terse >"$T/fio" 2>&1 &
  load=$!
  while kill -0 "$load" 2>/dev/null; do
    sleep 1
    s=$(stored)
    [ "$s" -le "$most" ] || most=$s
    [ "$s" -le $((live * 3 / 2)) ] || long=$((long + 1))
  done
  wait "$load"
  rates=$(awk -F, '{n++; v[n] = $2} END {k = int(n / 4); for (i = 2; i <= k + 1; i++) a += v[i]; for (i = n - k + 1; i <= n; i++) b += v[i]; printf "%.0f %.0f", a / k, b / k}' "$T"/iops_iops.*.log)
  row "random writes, first quarter" "${rates% *} /s" "" ""
  row "random writes, last quarter" "${rates#* } /s" "" ""
  bound "random writes: ratio" "$(awk -v r="$rates" 'BEGIN {split(r, a, " "); printf "%.2f", a[2] / a[1]}')" ">=" 0.5 ""
  row "the extents took at most" "$(awk -v a="$most" -v b="$live" 'BEGIN {printf "%.2f", a / b}') x live" "" ""
  row "more than 1.5 x live for" "$long s" "" ""
  bound "memory of the daemon with four mounts under load (RssAnon)" "$(($(cat "$T/most-random") / 1024))" "<=" 600 MiB
  # While the file is still held by a writer, though idle, the store comes back below 1.5 times what it holds.
  exec 9<>"$m/growth/big"
  began=$SECONDS
  while [ "$(stored)" -gt $((live * 3 / 2)) ] && [ $((SECONDS - began)) -lt 300 ]; do
    printf 'x' >&9
    sleep 1
  done
  exec 9>&-
  bound "extents after $((SECONDS - began)) s of rest" "$(awk -v a="$(stored)" -v b="$live" 'BEGIN {printf "%.2f", a / b}')" "<=" 1.5 "x live"
  kill "$watcher"
}

for which in few many; do
  use $which
  new_store
  mount_for admin "$m"
  works mkdir "$m/growth"
done
for part in ${PARTS:-files random}; do "${part}_part"; done
printf '\n| | | bound | reached |\n| --- | ---: | --- | --- |\n'
awk -F'\t' '{printf "| %s | %s | %s | %s |\n", $1, $2, $3, $4}' "$T/table"

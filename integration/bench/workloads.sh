#!/usr/bin/env bash
# workloads.sh DIR LABEL: runs every workload inside DIR, prints one line for each: LABEL, workload, value, unit,
# separated by tabs. Files go through the page cache as they do for a user; "cold" means that it was dropped just before.
#
# Environment: TREE, a tar file of a source tree (required); SIZE_MIB, the size of the big file (1024); ROWS, an extended
# expression that picks workloads (all); FIO_SECONDS, how long each fio run takes (6). Needs root, to drop the page cache.
set -eu
dir=${1:?usage: workloads.sh DIR LABEL}
label=${2:?usage: workloads.sh DIR LABEL}
: "${TREE:?a tar file of a source tree}"
mib=${SIZE_MIB:-1024} rows=${ROWS:-.}
at=$dir/bench.$$
mkdir "$at"
trap 'rm -rf "$at"' EXIT
small=10000 # files

cold() {
  sync
  echo 3 >/proc/sys/vm/drop_caches
}

wanted() {
  [[ $1 =~ $rows ]]
}

# row NAME VALUE UNIT
row() {
  ! wanted "$1" || printf '%s\t%s\t%.2f\t%s\n' "$label" "$1" "$2" "$3"
}

# seconds CMD...: how long it takes; its output goes nowhere.
seconds() {
  local begin=$EPOCHREALTIME
  "$@" >/dev/null
  awk -v a="$begin" -v b="$EPOCHREALTIME" 'BEGIN {printf "%.6f", b - a}'
}

# rate N CMD...: N things in that time, per second.
rate() {
  local n=$1 t
  shift
  t=$(seconds "$@")
  awk -v n="$n" -v t="$t" 'BEGIN {printf "%.4f", n / t}'
}

# iops FIELD OPTIONS...: fio on the big file for six seconds; FIELD 8 counts reads, 49 writes.
iops() {
  local field=$1
  shift
  fio --name=bench --filename="$at/big" --size="${mib}m" --bs=4k --ioengine=psync --runtime="${FIO_SECONDS:-6}" --time_based \
    --output-format=terse --terse-version=3 "$@" | tail -n 1 | cut -d';' -f"$field"
}

create_small() {
  /usr/bin/python3 - "$at/small" "$small" <<'EOF'
import os, sys
where, count = sys.argv[1], int(sys.argv[2])
block = os.urandom(4096)
for i in range(count):
    fd = os.open(f"{where}/{i}", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
    os.write(fd, block)
    os.close(fd)
EOF
}

read_small() {
  (cd "$at/small" && find . -type f -print0 | sort -z | xargs -0 cat)
}

one_big_file() {
  row seq-write "$(rate "$mib" dd if=/dev/zero of="$at/big" bs=1M count="$mib" conv=fsync status=none)" MiB/s
  cold
  row seq-read-cold "$(rate "$mib" dd if="$at/big" of=/dev/null bs=1M status=none)" MiB/s
  row seq-read-warm "$(rate "$mib" dd if="$at/big" of=/dev/null bs=1M status=none)" MiB/s
  if wanted cp-big; then
    row cp-big "$(rate "$mib" cp "$at/big" "$at/copy")" MiB/s
    rm "$at/copy"
  fi
  if wanted rand-read; then
    cold
    row rand-read-4k-cold "$(iops 8 --rw=randread)" IOPS
    cold
    row rand-read-4k-4jobs "$(iops 8 --rw=randread --numjobs=4 --group_reporting)" IOPS
  fi
  ! wanted rand-write || row rand-write-4k "$(iops 49 --rw=randwrite --end_fsync=1)" IOPS
  ! wanted fsync-write || row fsync-write-4k "$(iops 49 --rw=write --fsync=1)" IOPS
  rm "$at/big"
}

many_small_files() {
  mkdir "$at/small"
  row create-4k "$(rate "$small" create_small)" files/s
  cold
  row stat-cold "$(rate "$small" find "$at/small" -type f -printf '%s %m\n')" files/s
  row read-4k-cold "$(rate "$small" read_small)" files/s
  row unlink "$(rate "$small" rm -rf "$at/small")" files/s
}

a_source_tree() {
  mkdir "$at/tree"
  row untar "$(seconds tar -C "$at/tree" -xf "$TREE")" s
  cold
  row tar-read-cold "$(seconds sh -c "tar -C '$at/tree' -cf - . | cat")" s
  row cp-a "$(seconds cp -a "$at/tree" "$at/tree2")" s
  cold
  row ls-lR-cold "$(seconds ls -lR "$at/tree")" s
  row grep-r "$(seconds sh -c "grep -r 'no line has this' '$at/tree' || true")" s
  row rm-rf "$(seconds rm -rf "$at/tree2")" s
  rm -rf "$at/tree"
}

any() {
  local w
  for w; do ! wanted "$w" || return 0; done
  return 1
}

! any seq-write seq-read-cold seq-read-warm cp-big rand-read-4k-cold rand-read-4k-4jobs rand-write-4k fsync-write-4k || one_big_file
! any create-4k stat-cold read-4k-cold unlink || many_small_files
! any untar tar-read-cold cp-a ls-lR-cold grep-r rm-rf || a_source_tree

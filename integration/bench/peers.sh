#!/usr/bin/env bash
# peers.sh PEER...: mounts each peer in turn on a fresh directory and runs workloads.sh on it.
#
#   kmsfs       this project: one store, one bucket with the default encryption (SSE-S3)
#   kmsfs-kms   the same, the bucket's default being a customer key
#   gocryptfs   an encrypted overlay with one password
#   securefs    another one
#   loopback    go-fuse without encryption: what FUSE itself costs
#   passed      the same, but the kernel may pass reads through to the disk's filesystem
#   ext4        the bare disk, whatever filesystem it has
#
# Environment: KMSFS and LOOPBACK, the programs; BENCH_DIR, where to work (a directory on the disk to be measured); and
# what workloads.sh takes. Needs root.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
base=$(mktemp -d "${BENCH_DIR:-/var/tmp}/kmsfs-bench.XXXXXX")
chmod 755 "$base"
mnt="" back="" daemon=""

mounted() {
  awk -v d="$1" '$5 == d {found = 1} END {exit !found}' /proc/self/mountinfo
}

wait_for_mount() {
  local i
  for i in $(seq 100); do
    ! mounted "$1" || return 0
    sleep 0.1
  done
  echo "peers.sh: $1 was not mounted after $((i / 10)) seconds" >&2
  return 1
}

unmount() {
  local i
  for i in $(seq 50); do
    mounted "$1" || return 0
    umount "$1" 2>/dev/null || sleep 0.2
  done
  echo "peers.sh: $1 stayed busy for $((i / 5)) seconds" >&2
  umount -l "$1"
}

# stop_kmsfs: returns when the daemon has ended and its store may go.
stop_kmsfs() {
  [ -n "$daemon" ] || return 0
  kill "$daemon" 2>/dev/null || true
  wait "$daemon" || true
  daemon=""
}

cleanup() {
  local code=$?
  trap - EXIT
  [ -z "$mnt" ] || unmount "$mnt"
  stop_kmsfs
  rm -rf --one-file-system "$base"
  exit "$code"
}
trap cleanup EXIT
trap 'exit 130' INT TERM

# quietly CMD...: shows what it says only if it fails.
quietly() {
  "$@" >"$base/said" 2>&1 || {
    cat "$base/said" >&2
    return 1
  }
}

# start_kmsfs ENCRYPTION: $work becomes a bucket on a mount.
start_kmsfs() {
  export KMSFS_STORE=$back/store
  quietly "${KMSFS:?the program}" init
  quietly "$KMSFS" key create --alias bench
  quietly "$KMSFS" bucket create bench --sse "$1"
  "$KMSFS" serve --foreground 2>"$base/log" &
  daemon=$!
  until [ -S "$KMSFS_STORE/control.sock" ]; do
    kill -0 "$daemon" || {
      cat "$base/log" >&2
      return 1
    }
    sleep 0.1
  done
  quietly "$KMSFS" mount "$mnt"
  work=$mnt/bench
}

export TREE=${TREE:-$base/tree.tar}
[ -f "$TREE" ] || tar -C "$(go env GOROOT)" -cf "$TREE" src

for peer; do
  back=$base/$peer.back mnt=$base/$peer.mnt
  mkdir -p "$back" "$mnt"
  work=$mnt
  case $peer in
    ext4) work=$back ;;
    loopback) "${LOOPBACK:?the program}" "$mnt" "$back" & ;;
    passed) "${LOOPBACK:?the program}" -passthrough "$mnt" "$back" & ;;
    securefs)
      quietly securefs create --pass benchmark "$back"
      securefs mount --pass benchmark "$back" "$mnt" 2>/dev/null &
      ;;
    gocryptfs)
      quietly gocryptfs -nosyslog -init -extpass 'echo benchmark' "$back"
      gocryptfs -q -nosyslog -extpass 'echo benchmark' "$back" "$mnt"
      ;;
    kmsfs) start_kmsfs AES256 ;;
    kmsfs-kms) start_kmsfs aws:kms:alias/bench ;;
    *)
      echo "peers.sh: no peer is called $peer" >&2
      exit 2
      ;;
  esac
  [ "$peer" = ext4 ] || wait_for_mount "$mnt"
  "$here/workloads.sh" "$work" "$peer"
  [ "$peer" = ext4 ] || unmount "$mnt"
  stop_kmsfs
  rm -rf --one-file-system "$back"
done

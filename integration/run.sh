#!/usr/bin/env bash
# run.sh [t_name...]: runs the shell tests, all or those named, each with a store, mounts and OS users of its own.
#
# Environment: KMSFS, a program to test instead of bin/kmsfs; TEST_LIMIT, seconds for one test (600);
# KEEP=1 leaves each test's directory behind. Prints TAP and, at the end, one line that counts all checks.
set -u
here=$(cd "$(dirname "$0")" && pwd)
cd "$here/.." || exit 1

KMSFS=${KMSFS:-$PWD/bin/kmsfs}
export KMSFS
[ -x "$KMSFS" ] || {
  echo "run.sh: $KMSFS is not there; make build" >&2
  exit 1
}
[ -e /dev/fuse ] || modprobe fuse 2>/dev/null || [ "$(id -u)" -ne 0 ] || mknod /dev/fuse c 10 229
[ -e /dev/fuse ] || {
  echo "run.sh: /dev/fuse is not there: these tests need FUSE" >&2
  exit 1
}

if [ $# -gt 0 ]; then
  tests=()
  for t; do tests+=("$here/$(basename "${t%.sh}").sh"); done
else
  tests=("$here"/t_*.sh)
fi

tally=$(mktemp)
trap 'rm -f "$tally"' EXIT
passed=0 failed=0 skipped=0 bad=""
for t in "${tests[@]}"; do
  name=$(basename "$t" .sh)
  printf '# ---- %s\n' "$name"
  began=$SECONDS
  : >"$tally"
  KMSFS_TALLY=$tally timeout -k 60 "${TEST_LIMIT:-600}" bash "$t" </dev/null
  status=$?
  if read -r p f s <"$tally"; then
    passed=$((passed + p)) failed=$((failed + f)) skipped=$((skipped + s))
  else
    f=0
  fi
  # A test that ended badly without a failed check has failed all the same.
  if [ "$status" -ne 0 ]; then
    bad="$bad $name"
    [ "${f:-0}" -gt 0 ] || failed=$((failed + 1))
    printf '# %s: FAILED (status %d)\n' "$name" "$status"
  fi
  printf '# %s: %d s\n' "$name" $((SECONDS - began))
done

[ -z "$bad" ] || printf '# failed:%s\n' "$bad"
if [ "$skipped" -gt 0 ]; then
  printf 'integration: %d passed, %d failed, %d skipped\n' "$passed" "$failed" "$skipped"
else
  printf 'integration: %d passed, %d failed\n' "$passed" "$failed"
fi
[ "$failed" -eq 0 ] && [ "$passed" -gt 0 ]

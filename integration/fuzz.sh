#!/usr/bin/env bash
# fuzz.sh DURATION: runs every fuzz target of the module for DURATION each, as many at once as there are processors, one worker each.
# A package's test program is built once, instrumented for coverage. ONLY=REGEXP picks targets by "package FuzzName".
set -u
cd "$(dirname "$0")/.." || exit 1
duration=${1:-10s}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cache=$(go env GOCACHE)/fuzz

grep -rnoE --include='*_test.go' '^func Fuzz[A-Za-z0-9_]+' . | sed -E 's|^\./([^:]*)/[^/:]+:[0-9]+:func |\1 |' | sort |
  grep -E -- "${ONLY:-.}" >"$work/targets"
module=$(go list -m)
while read -r package; do
  go test -c -fuzz=. -o "$work/bin/${package//\//-}" "./$package" || exit 1
done < <(cut -d' ' -f1 "$work/targets" | uniq)

# one PACKAGE TARGET: where Go would run it, with the corpus that Go would keep.
one() {
  local package=$1 target=$2 out
  out=$(cd "$package" && "$work/bin/${package//\//-}" -test.run='^$' -test.fuzz="^$target\$" -test.fuzztime="$duration" \
    -test.parallel=1 -test.fuzzcachedir="$cache/$module/$package" 2>&1)
  local status=$?
  # When the time is over while a worker has not answered yet, Go calls that a failure of its own. An input that fails is written down.
  if [ "$status" -ne 0 ] && grep -q 'context deadline exceeded' <<<"$out" && ! grep -qE 'Failing input|panic:' <<<"$out"; then
    status=0
  fi
  if [ "$status" -ne 0 ]; then
    : >"$work/failed.$target.${package//\//-}"
    printf '%s %s: FAILED\n%s\n' "$package" "$target" "$out"
  else # of Go's line every three seconds the last counts what was tried
    printf '%s %s: %s\n' "$package" "$target" "$(grep -oE 'execs: [0-9]+' <<<"$out" | tail -n 1)"
  fi
}
export -f one
export work duration cache module
xargs -P "$(nproc)" -n 2 bash -c 'one "$@"' one <"$work/targets"

failed=$(find "$work" -name 'failed.*' | wc -l)
ran=$(wc -l <"$work/targets")
printf 'fuzz: %d targets, %s each, %d failed\n' "$ran" "$duration" "$failed"
[ "$ran" -gt 0 ] && [ "$failed" -eq 0 ]

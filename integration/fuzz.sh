#!/usr/bin/env bash
# fuzz.sh DURATION: runs every fuzz target of the module for DURATION each, one after another.
set -eu
cd "$(dirname "$0")/.."
duration=${1:-10s}
ran=0 failed=0
while IFS=: read -r file target; do
  printf '%s %s\n' "$(dirname "$file")" "$target"
  # Go prints a line every three seconds; only a failure is worth reading.
  out=$(go test -run='^$' -fuzz="^$target\$" -fuzztime="$duration" -parallel="$(nproc)" "./$(dirname "$file")" 2>&1) || {
    printf '%s\n' "$out"
    failed=$((failed + 1))
  }
  ran=$((ran + 1))
done < <(grep -rnoE --include='*_test.go' '^func Fuzz[A-Za-z0-9_]+' . | sed -E 's|^\./||; s/:[0-9]+:func /:/' | sort)
printf 'fuzz: %d targets, %s each, %d failed\n' "$ran" "$duration" "$failed"
[ "$failed" -eq 0 ]

#!/usr/bin/env bash
# bench.sh: runs the workloads on kmsfs and its peers in one run and prints a table of values and ratios.
#
# Environment: PEERS (kmsfs gocryptfs securefs loopback ext4); RUNS, how often, of which the median counts (1); OUT, a file for the raw
# rows; WRITE=1 puts the table between the markers in docs/performance.md; and what workloads.sh and peers.sh take.
set -eu
cd "$(dirname "$0")/../.."
[ "$(id -u)" -eq 0 ] || {
  echo "bench.sh: needs root, to drop the page cache between workloads" >&2
  exit 1
}
read -ra peers <<<"${PEERS:-kmsfs gocryptfs securefs loopback ext4}"
raw=${OUT:-$(mktemp)}
: >"$raw"
go build -trimpath -o bin/loopback ./integration/bench/loopback
export KMSFS=$PWD/bin/kmsfs LOOPBACK=$PWD/bin/loopback

for run in $(seq "${RUNS:-1}"); do
  [ "${RUNS:-1}" -eq 1 ] || echo "run $run" >&2
  integration/bench/peers.sh "${peers[@]}" | tee -a "$raw" >&2
done

# For throughput more is better, for seconds less: a ratio above 1 always says that kmsfs is faster.
table() {
  awk -F'\t' -v peers="${peers[*]}" '
    {
      if (!($2 in unit)) order[++n] = $2
      unit[$2] = $4
      values[$1, $2] = values[$1, $2] " " $3
    }
    function median(s,    a, k, i, j, x) {
      k = split(s, a, " ")
      for (i = 2; i <= k; i++) for (j = i; j > 1 && a[j - 1] + 0 > a[j] + 0; j--) { x = a[j]; a[j] = a[j - 1]; a[j - 1] = x }
      return k ? a[int((k + 1) / 2)] : ""
    }
    function number(v) { return v == "" ? "" : v >= 100 ? sprintf("%d", v + 0.5) : sprintf("%.2f", v) }
    END {
      m = split(peers, p, " ")
      head = "| workload | unit"; rule = "| --- | ---"
      for (i = 1; i <= m; i++) { head = head " | " p[i]; rule = rule " | ---:" }
      for (i = 2; i <= m; i++) { head = head " | " p[1] " : " p[i]; rule = rule " | ---:" }
      print head " |"; print rule " |"
      for (w = 1; w <= n; w++) {
        line = "| " order[w] " | " unit[order[w]]
        for (i = 1; i <= m; i++) line = line " | " number(v[i] = median(values[p[i], order[w]]))
        for (i = 2; i <= m; i++) {
          r = (v[1] == "" || v[i] == "" || v[1] == 0 || v[i] == 0) ? "" : sprintf("%.2f", unit[order[w]] == "s" ? v[i] / v[1] : v[1] / v[i])
          line = line " | " r
        }
        print line " |"
      }
    }' "$raw"
}

where() {
  printf '%s, %s; Linux %s, %s CPUs (%s); %s; big file %s MiB; median of %s.\n' \
    "$(date -u +%F)" "$(git describe --always --dirty 2>/dev/null || echo unversioned)" "$(uname -r)" "$(nproc)" \
    "$(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo | head -n 1)" "$(go version | cut -d' ' -f3)" "${SIZE_MIB:-1024}" "${RUNS:-1}"
}

result=$(where && echo && table)
printf '\n%s\n' "$result"
if [ "${WRITE:-0}" = 1 ]; then
  page=docs/performance.md
  {
    sed '/<!-- bench:begin -->/q' "$page"
    printf '\n%s\n\n' "$result"
    sed -n '/<!-- bench:end -->/,$p' "$page"
  } >"$page.new"
  mv "$page.new" "$page"
  echo "written to $page" >&2
fi
[ -n "${OUT:-}" ] || rm -f "$raw"

# shellcheck shell=bash
# dbench.sh: dbench's recorded load of a file server, by several clients.
suite_dbench() {
  local seconds=4 clients=4
  [ "$LONG" = 0 ] || seconds=120 clients=16
  story "dbench: $clients clients for $seconds seconds"
  LIMIT=$((seconds * 4 + 120)) matches '^Throughput' dbench -c /usr/share/dbench/client.txt -D "$A/suites/dbench" -t "$seconds" "$clients"
  LIMIT=$((seconds * 4 + 120)) matches '^Throughput' dbench -c /usr/share/dbench/client.txt -D "$B/suites/dbench" -s -S -t "$seconds" 2 # all I/O synchronous
}

# shellcheck shell=bash
# sqlite.sh: the lock, wal and crash tests of SQLite's own testfixture, built from Debian's source package. SQLITE_TESTS="lock wal"
# picks others by their beginning. They run as an ordinary user, since some look whether a file without permissions is
# refused. A test that fails on the ordinary disk of this machine as well says so and counts as skipped.
suite_sqlite() {
  local kind t
  story "SQLite's testfixture: ${SQLITE_TESTS:-lock wal crash}"
  built sqlite3 kmsfs/testfixture sh -c 'mkdir -p kmsfs && cd kmsfs && ../configure --enable-all && make -j2 testfixture' || return
  mkdir -p "$T/disk"
  chown 65534:65534 "$T/disk" "$A/suites/sqlite"
  for kind in ${SQLITE_TESTS:-lock wal crash}; do
    for t in "$SOURCE/test/$kind"*.test; do
      LIMIT=7200 tried "$(basename "$t")" "$A/suites/sqlite" "$T/disk" sqlite_test "$SOURCE/kmsfs/testfixture" "$t"
    done
  done
}

# sqlite_test DIR FIXTURE TEST: in DIR, which the test fills.
sqlite_test() {
  cd "$1" || return 1
  setpriv --reuid=65534 --regid=65534 --clear-groups "$2" "$3"
}
share sqlite_test

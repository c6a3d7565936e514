# shellcheck shell=bash
# pjdfstest.sh: POSIX conformance, from a built checkout that PJDFSTEST names. Debian has no package of it, so it is not fetched here.
suite_pjdfstest() {
  story "pjdfstest"
  if [ -z "${PJDFSTEST:-}" ]; then
    skip pjdfstest "PJDFSTEST does not name a built checkout of it"
    return
  fi
  LIMIT=7200 matches '^Result: PASS' pjdfstest_in "$A/suites/pjdfstest"
  note "$(grep -a '^Files=' "$T/.io/out")"
}

pjdfstest_in() {
  cd "$1" && prove -r -q "$PJDFSTEST/tests"
}
share pjdfstest_in

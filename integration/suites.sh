#!/usr/bin/env bash
# suites.sh [NAME...]: other people's test suites on real mounts, at full length: all of suites/*.sh or those named. `make test` runs
# short forms of some (t_suites.sh). What the suites need is installed by `.ci/tools soak`; two are built from Debian's source packages.
KMSFS=${KMSFS:-$(cd "$(dirname "$0")/.." && pwd)/bin/kmsfs}
here=$(cd "$(dirname "$0")" && pwd)
. "$here/lib.sh"
. "$here/suites/common.sh"
[ $# -gt 0 ] || set -- syscalls fio stress dbench pjdfstest sqlite git
export LONG=1
run_suites "$@"

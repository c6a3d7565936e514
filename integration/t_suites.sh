#!/usr/bin/env bash
# Short forms of the suites that suites.sh runs at full length. What is built from Debian's source packages is left to `make soak`: a
# check of every change shall not depend on a second archive.
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/suites/common.sh"
export LONG=0
run_suites fio stress dbench

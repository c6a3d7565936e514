#!/usr/bin/env bash
# Short forms of the suites that suites.sh runs at full length.
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/suites/common.sh"
export LONG=0
run_suites syscalls fio stress dbench

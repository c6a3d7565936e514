# shellcheck shell=bash
# lib.sh: what every t_*.sh stands on. A test sources it first and then simply tells its story:
#
#   . "$(dirname "$0")/lib.sh"
#   person alice                                 an OS user of that name, for this test alone
#   story "alice makes a file"                   a heading
#   works as alice touch "$T/alice/b/f"          the command must succeed
#   prints "hello" as alice cat "$T/alice/b/f"   it must succeed and print exactly this
#   matches 'aws:kms' cmd...                     it must succeed, and its output must match the extended expression
#   lacks 'secret' cmd...                        it must succeed, and nothing in its output may match
#   refused "Permission denied" as bob cat …     it must fail, and say so
#   exits 2 "unknown command" kmsfs frobnicate   it must fail with exactly this status, and say so
#   same "what" want got                         two strings must be equal
#   python "what" args... <<'EOF'                a Python program that must end well; run by $WHO if that is set
#   eventually 5 cmd...                          (no check) tries until cmd succeeds, at most 5 seconds
#
# Each check prints one TAP line, and on failure the command, what was expected and what came. Every command runs
# under a limit: LIMIT=300 works cp -a … gives it 300 seconds instead of 180.
#
# The test owns $T, a directory of its own: the store is $T/store, the program is $T/bin/kmsfs. Whatever happens, the
# trap at the end unmounts what lies below $T, ends the daemon, removes the OS users and the directory.

set -u -o pipefail
umask 022

: "${KMSFS:?run this through integration/run.sh}"
NAME=$(basename "$0" .sh)
T=$(mktemp -d "${TMPDIR:-/tmp}/kmsfs-$NAME.XXXXXX")
chmod 755 "$T"
mkdir "$T/bin" "$T/home" "$T/.io"
install -m 755 "$KMSFS" "$T/bin/kmsfs"

# The Go tool keeps its caches where they were; everything else finds an empty home.
GOCACHE=$(go env GOCACHE) GOMODCACHE=$(go env GOMODCACHE) GOPATH=$(go env GOPATH)
export GOCACHE GOMODCACHE GOPATH
export T HOME=$T/home PATH=$T/bin:$PATH:/usr/sbin:/sbin KMSFS_STORE=$T/store LC_ALL=C.UTF-8 TZ=UTC
unset KMSFS_PRINCIPAL XDG_DATA_HOME XDG_RUNTIME_DIR

checks=0 failures=0 skips=0 people="" fuse_mode=""

# --- people -----------------------------------------------------------------------------------------------------

# person NAME: makes an OS user for this test. uid_of NAME tells its uid.
person() {
  local name=$1 login="kt$$$1" tries
  for ((tries = 1; ; tries++)); do
    useradd -M -d "$T/home/$name" -s /bin/sh -U "$login" 2>"$T/.io/useradd" && break
    [ "$tries" -lt 200 ] || die "useradd $login: $(cat "$T/.io/useradd")"
    sleep 0.3 # another test holds the lock on /etc/passwd
  done
  people="$people $login"
  mkdir -p "$T/home/$name"
  chown "$login:" "$T/home/$name"
  declare -gx "LOGIN_$name=$login" "UID_$name=$(id -u "$login")" "GID_$name=$(id -g "$login")"
}

uid_of() {
  local v=UID_$1
  printf '%s' "${!v}"
}

# as NAME CMD...: runs CMD as that person; "as root" is plain.
as() {
  local who=$1
  shift
  [ "$who" != root ] || {
    "$@"
    return
  }
  local uid=UID_$who gid=GID_$who login=LOGIN_$who
  setpriv --reuid="${!uid}" --regid="${!gid}" --clear-groups \
    env HOME="$T/home/$who" USER="${!login}" LOGNAME="${!login}" "$@"
}

needs_root() {
  [ "$(id -u)" -eq 0 ] || skip_all "needs root: it makes OS users"
}

# --- checks -----------------------------------------------------------------------------------------------------

story() {
  printf '#\n# %s\n' "$*"
}

note() {
  printf '#   %s\n' "$*"
}

die() {
  printf 'Bail out! %s: %s\n' "$NAME" "$*"
  checks=$((checks + 1))
  failures=$((failures + 1))
  exit 1
}

# skip_all REASON: this whole test cannot run here.
skip_all() {
  printf 'ok 1 - %s # SKIP %s\n' "$NAME" "$*"
  skips=$((skips + 1))
  exit 0
}

skip() {
  skips=$((skips + 1)) checks=$((checks + 1))
  printf 'ok %d - %s # SKIP %s\n' "$checks" "$1" "$2"
}

# shown CMD...: the command as a person would read it.
shown() {
  local out="" arg
  for arg; do
    arg=${arg//$T\//}
    case $arg in
      *[!A-Za-z0-9_./:=,@%+^-]* | '') arg="'${arg//$'\n'/ }'" ;;
    esac
    out="$out $arg"
  done
  out=${out# }
  [ "${#out}" -le 150 ] || out="${out:0:147}..."
  printf '%s' "$out"
}

# attempt CMD...: runs it under the limit, output into $T/.io; status in $status.
attempt() {
  timeout -k 5 "${LIMIT:-180}" bash -c '"$@"' bash "$@" >"$T/.io/out" 2>"$T/.io/err" </dev/null
  status=$?
}

# verdict DESCRIPTION PASSED EXPECTED: prints the TAP line of the last attempt.
verdict() {
  checks=$((checks + 1))
  if [ "$2" = yes ]; then
    printf 'ok %d - %s\n' "$checks" "$1"
    return 0
  fi
  failures=$((failures + 1))
  printf 'not ok %d - %s\n' "$checks" "$1"
  printf '#   at %s line %s\n' "$NAME.sh" "$(line_of_test)"
  printf '#   expected: %s\n' "$3"
  printf '#   exit status: %s%s\n' "$status" "$([ "$status" -ne 124 ] || echo " (ran into its limit of ${LIMIT:-180} s)")"
  sed 's/^/#   stdout: /' "$T/.io/out" | head -n 20
  sed 's/^/#   stderr: /' "$T/.io/err" | head -n 20
  return 1
}

line_of_test() {
  local i
  for ((i = 1; i < ${#BASH_SOURCE[@]}; i++)); do
    case ${BASH_SOURCE[i]} in
      */t_*) printf '%s' "${BASH_LINENO[i - 1]}" && return ;;
    esac
  done
}

yes_if() {
  "$@" && echo yes || echo no
}

works() {
  attempt "$@"
  verdict "$(shown "$@")" "$(yes_if [ "$status" -eq 0 ])" "success"
}

prints() {
  local want=$1
  shift
  attempt "$@"
  verdict "$(shown "$@")" "$(yes_if [ "$status:$(cat "$T/.io/out")" = "0:$want" ])" "success and output: $want"
}

matches() {
  local want=$1
  shift
  attempt "$@"
  verdict "$(shown "$@") ~ $want" \
    "$([ "$status" -eq 0 ] && grep -qE -- "$want" "$T/.io/out" "$T/.io/err" && echo yes)" "success and output matching: $want"
}

lacks() {
  local bad=$1
  shift
  attempt "$@"
  verdict "$(shown "$@") lacks $bad" \
    "$([ "$status" -eq 0 ] && ! grep -qE -- "$bad" "$T/.io/out" "$T/.io/err" && echo yes)" "success and no output matching: $bad"
}

# A refusal is an exit status of its own: neither a limit reached nor a signal nor a panic counts as one.
refused() {
  local want=$1
  shift
  attempt "$@"
  verdict "$(shown "$@") refused: $want" \
    "$([ "$status" -ne 0 ] && [ "$status" -lt 124 ] && says -F "$want" && no_panic && echo yes)" "failure saying: $want"
}

exits() {
  local code=$1 want=$2
  shift 2
  attempt "$@"
  verdict "$(shown "$@") exits $code: $want" \
    "$([ "$status" -eq "$code" ] && says -E "$want" && no_panic && echo yes)" "exit status $code and a message matching: $want"
}

# says -F|-E TEXT: the last attempt wrote that to stderr; anything will do for an empty TEXT.
says() {
  [ -z "$2" ] || grep -qi "$1" -- "$2" "$T/.io/err"
}

no_panic() {
  ! grep -qE '^(panic:|fatal error:|goroutine [0-9]+ \[)' "$T/.io/err"
}

same() {
  status=0
  printf '%s\n' "$3" >"$T/.io/out"
  : >"$T/.io/err"
  verdict "$1" "$(yes_if [ "$2" = "$3" ])" "$2"
}

# differs WHAT A B: the two must not be equal.
differs() {
  status=0
  printf '%s\n' "$3" >"$T/.io/out"
  : >"$T/.io/err"
  verdict "$1" "$(yes_if [ "$2" != "$3" ])" "anything but: $2"
}

# eventually SECONDS CMD...: for what another process does in its own time.
eventually() {
  local until=$((SECONDS + $1))
  shift
  until timeout -k 5 30 bash -c '"$@"' bash "$@" >"$T/.io/out" 2>"$T/.io/err" </dev/null; do
    [ "$SECONDS" -lt "$until" ] || return 1
    sleep 0.1
  done
}

python() {
  local what=$1
  shift
  cat >"$T/.io/program.py"
  attempt as "${WHO:-root}" /usr/bin/python3 "$T/.io/program.py" "$@"
  verdict "$what" "$(yes_if [ "$status" -eq 0 ])" "a program that ends well"
}

# within SECONDS CMD...: a check that CMD succeeds before that many seconds are over.
within() {
  local seconds=$1
  shift
  eventually "$seconds" "$@"
  status=$?
  verdict "$(shown "$@") within $seconds s" "$(yes_if [ "$status" -eq 0 ])" "success within $seconds seconds"
}

# fails CMD...: (no check) turns success into failure and the reverse, for use with within.
fails() {
  ! "$@"
}

# --- stores and mounts ------------------------------------------------------------------------------------------

# attr NAME PATH: the value of an extended attribute, alone. set_attr NAME VALUE PATH.
attr() {
  getfattr --absolute-names --only-values -n "$1" -- "$2"
}

set_attr() {
  setfattr -n "$1" -v "$2" -- "$3"
}

# is_mounted DIR: asks the table of mounts, because a root-made mount of another user refuses even a stat by root.
is_mounted() {
  awk -v d="$1" '$5 == d {found = 1} END {exit !found}' /proc/self/mountinfo
}

# mounts_below DIR: mount points below DIR, innermost first.
mounts_below() {
  awk -v d="$1/" 'index($5, d) == 1 {print $5}' /proc/self/mountinfo | sort -r | while IFS= read -r m; do printf '%b\n' "$m"; done
}

# daemons: process ids of the kmsfs processes of this test, told by the program file that they run.
daemons() {
  local exe
  for exe in /proc/[0-9]*/exe; do
    case $(readlink "$exe" 2>/dev/null) in
      "$T"/*/kmsfs | "$T"/*/kmsfs" (deleted)")
        exe=${exe#/proc/}
        printf '%s\n' "${exe%/exe}"
        ;;
    esac
  done
}

no_daemon() {
  [ -z "$(daemons)" ]
}

# new_store: kmsfs init in $T/store, by the caller, with the administrator "admin".
new_store() {
  attempt kmsfs init --admin admin "$@" || true
  [ "$status" -eq 0 ] || {
    cat "$T/.io/out" "$T/.io/err"
    die "kmsfs init failed"
  }
}

# mount_for PRINCIPAL DIR [OPTIONS...]: makes DIR, gives it to the person of the same name if there is one, mounts.
mount_for() {
  local who=$1 dir=$2 login=LOGIN_$1
  shift 2
  mkdir -p "$dir"
  [ -z "${!login:-}" ] || chown "${!login}:" "$dir"
  attempt kmsfs mount --principal "$who" "$@" "$dir"
  if [ "$status" -ne 0 ] || ! is_mounted "$dir"; then
    cat "$T/.io/out" "$T/.io/err"
    die "kmsfs mount --principal $who $dir failed"
  fi
}

# stop_daemon: ends the daemon as an orderly shutdown does; mounts go with it.
stop_daemon() {
  kmsfs stop >/dev/null 2>&1 || true
  eventually 20 no_daemon || die "the daemon did not end"
}

# let_all_use_fuse: until the end of the test. Every distribution has /dev/fuse that way; some bare machines do not.
let_all_use_fuse() {
  fuse_mode=$(stat -c %a /dev/fuse)
  [ "$fuse_mode" = 666 ] || chmod 666 /dev/fuse
}

# --- the end ----------------------------------------------------------------------------------------------------

# abort_mounts: ends the FUSE connections below $T by force, so that nothing hangs on them.
abort_mounts() {
  local dev
  awk -v d="$T/" 'index($5, d) == 1 && / - fuse/ {split($3, n, ":"); print n[2]}' /proc/self/mountinfo | while read -r dev; do
    mountpoint -q /sys/fs/fuse/connections || mount -t fusectl none /sys/fs/fuse/connections 2>/dev/null
    [ ! -e "/sys/fs/fuse/connections/$dev/abort" ] || echo 1 >"/sys/fs/fuse/connections/$dev/abort" 2>/dev/null
  done
}

teardown() {
  local result=$? m p login
  trap - EXIT INT TERM HUP
  cd /
  for p in $(jobs -p); do kill "$p" 2>/dev/null; done
  mounts_below "$T" | while IFS= read -r m; do
    timeout -k 2 20 kmsfs umount "$m" >/dev/null 2>&1 || timeout -k 2 10 umount "$m" 2>/dev/null ||
      timeout -k 2 10 fusermount3 -u -z "$m" 2>/dev/null || true
  done
  timeout -k 2 20 kmsfs stop >/dev/null 2>&1
  for p in $(daemons); do kill "$p" 2>/dev/null; done
  eventually 10 no_daemon || {
    note "the daemon had to be killed"
    for p in $(daemons); do kill -9 "$p" 2>/dev/null; done
  }
  abort_mounts
  mounts_below "$T" | while IFS= read -r m; do umount -l "$m" 2>/dev/null; done
  if [ "$failures" -gt 0 ] && [ -s "$T/store/daemon.log" ]; then
    note "the last lines of the daemon's log:"
    tail -n 30 "$T/store/daemon.log" | sed 's/^/#   log: /'
  fi
  [ -z "$fuse_mode" ] || chmod "$fuse_mode" /dev/fuse
  for login in $people; do userdel -f "$login" >/dev/null 2>&1; done
  printf '1..%d\n' "$checks"
  [ -z "${KMSFS_TALLY:-}" ] || echo "$((checks - failures - skips)) $failures $skips" >"$KMSFS_TALLY"
  if [ "${KEEP:-0}" = 1 ]; then
    note "kept: $T"
  else
    rm -rf --one-file-system "$T"
  fi
  [ "$failures" -eq 0 ] && [ "$result" -eq 0 ]
  exit
}
trap teardown EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

# Checks run their commands in a child shell, so that a limit can be put on functions of a test as well.
export NAME
share() {
  local f
  for f; do
    # shellcheck disable=SC2163 # the name is in the variable
    export -f "$f"
  done
}
share as uid_of attr set_attr is_mounted fails daemons no_daemon mounts_below

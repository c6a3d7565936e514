# shellcheck shell=bash
# git.sh: git's own t/ scripts, built from Debian's source package; all of them, or those that GIT_TESTS names ('t0* t1*'). A script that
# fails on the ordinary disk of this machine as well says so and counts as skipped.
suite_git() {
  local t all
  story "git's t/ scripts: ${GIT_TESTS:-all}"
  built git git sh -c "make -j2 NO_GETTEXT=1 NO_TCLTK=1 NO_CURL=1 NO_EXPAT=1 all" || return
  mkdir -p "$T/disk" "$T/git-results"
  chmod 777 "$A/suites/git"
  cd "$SOURCE/t" || return
  # shellcheck disable=SC2086 # patterns are meant
  printf '%s\n' ${GIT_TESTS:-t[0-9]*.sh} | sed 's/\.sh$//; s/$/.sh/' >"$T/git-wanted"
  while IFS= read -r t; do compgen -G "$t"; done <"$T/git-wanted" | sort -u >"$T/git-scripts"
  [ -s "$T/git-scripts" ] || die "no script of git is named ${GIT_TESTS:-}"
  xargs -P "$(nproc)" -I '{}' bash -c 'git_test "$0" "$1" >"$T/git-results/$1" 2>&1 || echo "$1" >>"$T/git-failed"' "$A/suites/git" '{}' <"$T/git-scripts"
  all=$(wc -l <"$T/git-scripts")
  touch "$T/git-failed"
  note "$((all - $(wc -l <"$T/git-failed"))) of $all pass at once"
  same "every script was run" "$all" "$(find "$T/git-results" -type f | wc -l)"
  while IFS= read -r t; do # once more, alone, and if it fails again on the ordinary disk
    LIMIT=1800 tried "$t" "$A/suites/git" "$T/disk" git_test "$t"
  done <"$T/git-failed"
  cd /
}

# git_test DIR SCRIPT: with its trash directory in DIR.
git_test() {
  mkdir -p "$1/${2%.sh}" && cd "$SOURCE/t" && timeout -k 5 1800 "./$2" --root="$1/${2%.sh}"
}
share git_test

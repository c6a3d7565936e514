# shellcheck shell=bash
# common.sh: what the suites share. A suite is a file beside this one that defines a function suite_NAME; suites.sh runs it. It finds
# two mounts of one store, $A and $B, with a bucket in which $A/suites/NAME is a directory of its own, and $LONG, which is 1 in
# `make soak` and 0 in `make test`.

# SOURCES keeps what is fetched and built from Debian's source packages from run to run.
SOURCES=${KMSFS_SUITES:-/var/tmp/kmsfs-suites-$(id -u)}

# debian_source PACKAGE: prints the directory that holds the package's unpacked source, which apt-get fetches the first time. The
# package lists of the machine stay as they are: those for sources are kept beside the sources.
debian_source() {
  local pkg=$1 dir keys=/usr/share/keyrings/debian-archive-keyring.gpg apt
  mkdir -p "$SOURCES/lists/partial" "$SOURCES/$pkg" || return 1
  (
    flock 9
    dir=$(find "$SOURCES/$pkg" -mindepth 1 -maxdepth 1 -type d | head -n 1)
    [ -z "$dir" ] || [ ! -e "$SOURCES/$pkg/complete" ] || { echo "$dir" && exit 0; }
    apt-get indextargets --format '$(REPO_URI) $(RELEASE) $(COMPONENT)' 'Created-By: Packages' 'Origin: Debian' | sort -u |
      sed "s|^|deb-src $([ ! -e "$keys" ] || echo "[signed-by=$keys] ")|" >"$SOURCES/sources.list"
    [ -s "$SOURCES/sources.list" ] || { echo "apt-get knows no Debian archive to fetch the source of $pkg from" >&2 && exit 1; }
    apt=(apt-get -q -o "Dir::Etc::SourceList=$SOURCES/sources.list" -o Dir::Etc::SourceParts=/dev/null
      -o "Dir::State::Lists=$SOURCES/lists" -o APT::Sandbox::User=root)
    if ! { "${apt[@]}" update && cd "$SOURCES/$pkg" && "${apt[@]}" source "$pkg"; } >"$SOURCES/$pkg.log" 2>&1; then
      tail -n 5 "$SOURCES/$pkg.log" >&2
      echo "the source package $pkg is not to be had" >&2
      exit 1
    fi
    touch "$SOURCES/$pkg/complete"
    find "$SOURCES/$pkg" -mindepth 1 -maxdepth 1 -type d | head -n 1
  ) 9>"$SOURCES/lock"
}

# built PACKAGE WHAT CMD...: (a check) runs CMD in the package's source unless WHAT is there already.
built() {
  local pkg=$1 what=$2 dir
  shift 2
  LIMIT=120 works debian_source "$pkg" || return 1
  dir=$(tail -n 1 "$T/.io/out")
  [ -e "$dir/$what" ] || LIMIT=1800 works build_in "$dir" "$@"
  [ -e "$dir/$what" ] && export SOURCE=$dir
}

build_in() {
  cd "$1" || return 1
  shift
  nice "$@"
}

# tried NAME DIR DISK CMD ARGS...: (a check) CMD DIR ARGS works; or else it fails in DISK too, a directory of the ordinary disk, and is
# skipped for that reason.
tried() {
  local name=$1 dir=$2 disk=$3 cmd=$4
  shift 4
  attempt "$cmd" "$dir" "$@"
  if [ "$status" -eq 0 ]; then
    verdict "$name" yes ""
    return
  fi
  tail -n 12 "$T/.io/out" >"$T/.io/tail"
  local was=$status
  attempt "$cmd" "$disk" "$@"
  if [ "$status" -ne 0 ] && [ "$status" -ne 124 ]; then
    skip "$name" "fails on the ordinary disk of this machine too"
    return
  fi
  status=$was
  cp "$T/.io/tail" "$T/.io/out"
  verdict "$name" no "success, as on the ordinary disk"
}

export SOURCES
share debian_source build_in

# run_suites NAME...: each suite between the same beginning and end: two mounts, and afterwards a restart and a check of everything.
run_suites() {
  local name
  needs_root
  new_store
  works kmsfs principal create other --uid 0 --policy AdministratorAccess
  works kmsfs key create --alias suites
  works kmsfs bucket create suites --sse aws:kms:alias/suites
  A=$T/a B=$T/b
  for name; do
    # shellcheck source=/dev/null
    . "$(dirname "${BASH_SOURCE[0]}")/$name.sh"
    mount_for admin "$A" -o allow_other,default_permissions
    mount_for other "$B" -o allow_other,default_permissions
    mkdir -p "$A/suites/$name"
    began=$SECONDS
    "suite_$name"
    note "$name: $((SECONDS - began)) s"
    LIMIT=600 works rm -rf "$A/suites/$name"
    works kmsfs umount "$B"
    works kmsfs umount "$A"
    within 20 no_daemon
    LIMIT=600 works kmsfs fsck --data
  done
}

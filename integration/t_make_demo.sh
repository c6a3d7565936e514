#!/usr/bin/env bash
# What "make demo" sets up and prints: every printed line is run as printed; it can be repeated; it goes away again. Once as
# root, where the second principal is another OS user, and once as an ordinary user.
. "$(dirname "$0")/lib.sh"
needs_root
person alice

# A copy, because an ordinary user need not be able to reach the checkout.
mkdir -p "$T/repo/integration" "$T/repo/bin"
cp "$(dirname "$0")/demo.sh" "$T/repo/integration/"
ln "$T/bin/kmsfs" "$T/repo/bin/kmsfs"
unset KMSFS_STORE

tell() {
  local who=$1 line
  works as "$who" "$T/repo/integration/demo.sh" up "$T/demo-$who"
  works as "$who" "$T/repo/integration/demo.sh" up "$T/demo-$who"
  cp "$T/.io/out" "$T/printed"
  cd "$T/repo" || die "no repo"
  sed -n '/^Try:/,/^End it/s/^  //p' "$T/printed" >"$T/lines"
  while IFS= read -r line; do
    case $line in
      *'# Permission denied') refused "Permission denied" as "$who" sh -c "$line" ;;
      *'# Key has been revoked') refused "Key has been revoked" as "$who" sh -c "$line" ;;
      *) works as "$who" sh -c "$line" ;;
    esac
  done <"$T/lines"
  same "lines were tried" yes "$([ "$(wc -l <"$T/lines")" -gt 8 ] && echo yes)"
  works as "$who" "$T/repo/integration/demo.sh" down "$T/demo-$who"
  refused "No such file" stat "$T/demo-$who"
  works as "$who" "$T/repo/integration/demo.sh" down "$T/demo-$who"
  cd "$T" || die "no directory"
}

story "as root"
tell root

story "as an ordinary user"
let_all_use_fuse
chmod 777 "$T"
tell alice

#!/usr/bin/env bash
# What packaging/ ships: the mount helper that mount(8) and fstab call, and the completion.
. "$(dirname "$0")/lib.sh"
needs_root
packaging=$(cd "$(dirname "$0")/../packaging" && pwd)

new_store
works kmsfs key create --alias my-key
mkdir "$T/m"

story "mount.kmsfs, called as mount(8) calls it"
works "$packaging/mount.kmsfs" "$T/store" "$T/m" -o rw,nofail,x-systemd.automount,principal=admin,noexec,sse=aws:kms:alias/my-key
works is_mounted "$T/m"
matches noexec findmnt -n -o OPTIONS "$T/m"
works mkdir "$T/m/box"
works touch "$T/m/box/f"
prints aws:kms attr user.s3.sse "$T/m/box/f"
works umount "$T/m"
within 10 no_daemon
works "$packaging/mount.kmsfs" "$T/store" "$T/m" -s
works umount "$T/m"
exits 1 "nobody-here" "$packaging/mount.kmsfs" "$T/store" "$T/m" -o principal=nobody-here

story "completion"
complete_words() { # complete_words WORD...: what the completion offers for the last word
  # shellcheck source=../packaging/kmsfs.bash
  . "$packaging/kmsfs.bash"
  COMP_WORDS=(kmsfs "$@") COMP_CWORD=$# COMPREPLY=()
  _kmsfs
  printf '%s\n' "${COMPREPLY[@]}"
}
export packaging
share complete_words
matches '^principal$' complete_words pri
matches '^create$' complete_words bucket cr
matches '^admin$' complete_words mount --principal ad
matches '^aws:kms:alias/my-key$' complete_words bucket create x --sse aws

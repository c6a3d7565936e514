#!/usr/bin/env bash
# A real source tree, the Go distribution's own: copied in, compared through another principal's mount, through a tar
# stream and again after the daemon was restarted; then removed.
. "$(dirname "$0")/lib.sh"
needs_root
person alice
LIMIT=300
src=$(go env GOROOT)/src

new_store
works kmsfs principal create alice --uid "$(uid_of alice)" --policy AmazonS3FullAccess
works kmsfs bucket create tree
mount_for admin "$T/admin"
mount_for alice "$T/alice"

story "copy $(find "$src" -type f | wc -l) files"
began=$(date +%s.%N)
works cp -a "$src" "$T/admin/tree/"
note "cp -a took $(awk -v a="$began" -v b="$(date +%s.%N)" 'BEGIN {printf "%.1f", b - a}') s"

story "the same through the mount that wrote it, and through alice's"
works diff -r --no-dereference "$src" "$T/admin/tree/src"
works as alice diff -r --no-dereference "$src" "$T/alice/tree/src"
# Names, types, sizes, modes, link targets and times to the nanosecond; a directory's size is the filesystem's own affair.
metadata() { (cd "$1" && find . -printf '%p %y %s %m %l %T@\n' | awk '$2 == "d" {$3 = 0} {print}' | sort); }
share metadata
metadata "$src" >"$T/want"
attempt metadata "$T/admin/tree/src"
cp "$T/.io/out" "$T/got"
works diff "$T/want" "$T/got"

story "alice edits, the administrator sees it at once"
works as alice sh -c "echo '// edited' >>$T/alice/tree/src/fmt/print.go"
prints "// edited" tail -n 1 "$T/admin/tree/src/fmt/print.go"
works cp -p "$src/fmt/print.go" "$T/admin/tree/src/fmt/print.go"
works as alice cmp "$src/fmt/print.go" "$T/alice/tree/src/fmt/print.go"

works kmsfs fsck --data

story "and after a restart"
stop_daemon
prints "" mounts_below "$T"
mount_for admin "$T/admin"
works diff -r --no-dereference "$src" "$T/admin/tree/src"
works sh -c "tar -C $T/admin/tree -cf - src | tar -C $(dirname "$src") -df -"

story "rename the whole, then remove it"
works mv "$T/admin/tree/src" "$T/admin/tree/moved"
works cmp "$src/fmt/print.go" "$T/admin/tree/moved/fmt/print.go"
works rm -rf "$T/admin/tree/moved"
prints "" ls -A "$T/admin/tree"
works rmdir "$T/admin/tree"

story "fsck has nothing to say, and the space comes back"
works kmsfs fsck --data
sealed_mib() { du -sm "$T/store/segments" | cut -f1; }
shrunk() { kmsfs gc >/dev/null && [ "$(sealed_mib)" -lt 64 ]; } # the segment being written keeps 32 MiB reserved
share sealed_mib shrunk
note "segments hold $(sealed_mib) MiB after the last rm"
within 30 shrunk

#!/usr/bin/env bash
# Stores of each format that there was, kept as they were (format1/make.sh), opened by the program of today: unlocked by each of their
# slots, checked, compared with what was written down then, worked in, closed and opened again. And what is not known is refused.
. "$(dirname "$0")/lib.sh"
here=$(cd "$(dirname "$0")" && pwd)
# shellcheck source=integration/format1/manifest.sh
. "$here/format1/manifest.sh"
needs_root
printf 'format one\n' >"$T/phrase"

# unpack NAME: the kept store of that name becomes $T/store.
unpack() {
  rm -rf "$T/store"
  tar -C "$T" --no-same-owner -xzf "$kept/$1.tar.gz" || die "cannot unpack $1.tar.gz"
}

# compare NAME: the mount shows what NAME.txt says, path by path.
compare() {
  files_below "$T/m" >"$T/found" 2>"$T/.io/listing" || die "$(cat "$T/.io/listing")"
  same "$1: paths, sizes, times, contents, attributes, lists and keys are those of then ($(grep -c '^\./' "$kept/$1.txt") inodes)" \
    "" "$(diff "$kept/$1.txt" "$T/found" | head -n 20)"
}

# under: how many files are under each key, as the attributes written down then say.
under() {
  /usr/bin/python3 - "$kept/files.txt" <<'END'
import collections, fractions, sys

links, under = 1, collections.Counter()
for line in open(sys.argv[1], encoding="utf-8", errors="surrogateescape"):
    if line.startswith("./") and " file " in line:
        links = int(line.split()[-1])
    if line.startswith("  user.s3.sse-kms-key-id "):
        under[line.split()[1]] += fractions.Fraction(1, links)
for arn, files in sorted(under.items()):
    print(arn, files)
END
}

# opens: everything about the two stores in $kept.
opens() {
  local format sum
  format=$(basename "$kept")
  story "$format: closed in order: checked before anything else touches it"
  unpack store
  matches 'result: +clean' kmsfs fsck --data
  records >"$T/records"
  same "keys, policies, grants, aliases, buckets, principals and groups are those of then" "" "$(diff "$kept/records.txt" "$T/records" | head -n 20)"
  under >"$T/under"
  same "the index of files by key, which is another one than that of format1, leads to as many files as the attributes of then say" "$(cat "$T/under")" \
    "$(while read -r arn _; do echo "$arn $(kmsfs key files "$arn" 2>/dev/null | wc -l)"; done <"$T/under")"
  works kmsfs audit verify
  matches CreateKey sh -c "kmsfs --json audit query --key alias/rotated | grep -o CreateKey"

  story "$format: the passphrase opens it as well as the key file"
  mv "$T/store/root.key" "$T/root.key"
  exits 4 "no unlock slot|passphrase" kmsfs key list
  matches alias/rotated kmsfs --passphrase-file "$T/phrase" alias list
  mv "$T/root.key" "$T/store/root.key"

  story "$format: a file under the disabled key stays shut; with the key enabled everything is as it was"
  mount_for admin "$T/m" -o default_permissions
  refused "Key has been revoked" cat "$T/m/keyed/under-disabled-200"
  works kmsfs key enable alias/disabled
  compare files

  story "$format: it is worked in like any other"
  works sh -c "echo more >>$T/m/keyed/under-imported-200 && echo new >$T/m/bucket-key/new && echo x >$T/m/keyed/rotated1"
  works kmsfs key rotate alias/rotated
  works kmsfs rekey --to alias/plain bucket-key
  works sh -c "rm -r $T/m/plain-s3/deep && mv $T/m/limited/deep $T/m/limited/moved"
  matches "quota|bytes=10000000" attr user.s3.quota "$T/m/limited"
  refused "Disk quota exceeded" dd if=/dev/zero of="$T/m/limited/large" bs=1M count=20
  works rm -f "$T/m/limited/large"
  sum=$(files_below "$T/m" | sha256sum)
  stop_daemon
  matches 'result: +clean' kmsfs fsck --data
  mount_for admin "$T/m" -o default_permissions
  same "closed and opened again it shows the same" "$sum" "$(files_below "$T/m" | sha256sum)"
  prints new cat "$T/m/bucket-key/new"
  stop_daemon

  story "$format: killed in the middle of work: the redo log is replayed, the epoch that was open is looked through"
  unpack killed
  mount_for admin "$T/m" -o default_permissions
  matches 'not closed in order.* checked=[1-9]' cat "$T/store/daemon.log"
  compare killed
  works kmsfs gc
  matches 'result: +clean' kmsfs fsck --data
  stop_daemon
  matches 'result: +clean' kmsfs fsck --data
}

for kept in "$here/format1" "$here/format2"; do opens; done

story "a store of a version or with a flag that this program does not know is left alone"
cp -a "$T/store" "$T/before"
for change in 's/"version": 1/"version": 2/' 's/"incompatible": \[\]/"incompatible": ["striping"]/'; do
  sed -i "$change" "$T/store/kmsfs.json"
  differs "the header is changed: $change" "$(cat "$T/before/kmsfs.json")" "$(cat "$T/store/kmsfs.json")"
  exits 6 "needs another version of kmsfs.*(format version is 2, this program knows 1|it uses .striping., which)" kmsfs fsck
  exits 6 "needs another version of kmsfs" kmsfs mount "$T/m"
  cp -a "$T/before/kmsfs.json" "$T/store/kmsfs.json"
done
same "nothing was written to it" "" "$(diff -r --exclude=lock --exclude=daemon.log --exclude='*.sock' "$T/before" "$T/store")"
works kmsfs fsck

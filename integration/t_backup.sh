#!/usr/bin/env bash
# kmsfs backup and restore, as an administrator uses them: snapshots while people work, increments, kills, a lost disk, a backup that
# was tampered with, a key that was forgotten; and a store put back file by file, refused until the administrator accepts it.
. "$(dirname "$0")/lib.sh"
# shellcheck source=integration/format1/manifest.sh
. "$(dirname "$0")/format1/manifest.sh"
needs_root
person alice

new_store
key=$(kmsfs key create --alias one) other=$(kmsfs key create --alias two)
works kmsfs principal create alice --uid "$(uid_of alice)" --policy AmazonS3FullAccess
mount_for admin "$T/m" -o allow_other
mount_for alice "$T/alice"
works kmsfs bucket create box --sse aws:kms:alias/one
works kmsfs bucket create plain
mkdir "$T/m/box/dir"
for n in $(seq 1 200); do printf 'file %d\n' "$n" >"$T/m/box/dir/f$n"; done
head -c 20000000 /dev/urandom >"$T/m/box/large"
head -c 300000 /dev/urandom >"$T/m/plain/middle"
: >"$T/m/box/under-two"
set_attr user.s3.sse "aws:kms:alias/two" "$T/m/box/under-two"
echo "second key" >"$T/m/box/under-two"
ln "$T/m/box/large" "$T/m/plain/../box/hard"
set_attr user.colour blue "$T/m/box/dir/f1"
added() { kmsfs --json backup "$T/backup" | /usr/bin/python3 -c 'import json,sys; print(json.load(sys.stdin)["addedBytes"])'; }
size() { find "$1" -type f -printf '%s\n' | awk '{n += $1} END {print n}'; }
share added size

story "the first snapshot is all of it; an increment is what is new"
full=$(added)
same "the first has everything" yes "$(yes_if [ "$full" -gt 20300000 ])"
before=$(size "$T/backup")
head -c 1000000 /dev/urandom >"$T/m/box/new"
printf 'changed\n' >"$T/m/box/dir/f7"
inc=$(added)
note "full $full bytes, one file of 1,000,000 and a small change $inc bytes"
same "the increment holds the new file" yes "$(yes_if [ "$inc" -gt 1000000 ])"
same "and little else" yes "$(yes_if [ "$inc" -lt 2500000 ])"
grew=$(($(size "$T/backup") - before))
same "the directory grew by no more than that" yes "$(yes_if [ "$grew" -lt $((inc + 200000)) ])"
matches '^2 ' kmsfs backup list "$T/backup"
works sh -c "kmsfs --json backup list $T/backup | /usr/bin/python3 -m json.tool"
matches 'snapshot 2 .* is whole' kmsfs backup verify "$T/backup"
matches 'snapshot 1 .* is whole' kmsfs backup verify --snapshot 1 "$T/backup"

story "consistent while people write: each snapshot shows one moment"
# A writer renames two files in turn, so that exactly one of them is there at any moment; and appends a line to both logs, the first first.
as alice sh -c "cd $T/alice/plain && touch a.log b.log here.0 && n=0; while [ ! -e stop ]; do m=\$((1 - n)); mv here.\$n here.\$m; n=\$m; echo x >>a.log; echo x >>b.log; done" &
writer=$!
eventually 60 test -s "$T/m/plain/b.log"
works kmsfs backup "$T/backup"
works kmsfs backup "$T/backup"
touch "$T/m/plain/stop"
wait $writer
lines=$(wc -l <"$T/m/plain/b.log")

story "wrong uses"
exits 2 "argument is missing" kmsfs backup
exits 2 "in the store or on one of its mounts" kmsfs backup "$T/store/backup"
exits 2 "in the store or on one of its mounts" kmsfs backup "$T/m/box/backup"
mkdir "$T/full" && touch "$T/full/file"
exits 1 "not a backup of this store" kmsfs backup "$T/full"
exits 1 "not a backup of this store" kmsfs backup verify "$T/full"
exits 1 "no such backup" kmsfs backup verify --snapshot 99 "$T/backup"
exits 1 "only root and the store's owner" as alice kmsfs backup "$T/home/alice/backup"
KMSFS_STORE=$T/elsewhere works kmsfs init
KMSFS_STORE=$T/elsewhere exits 5 "does not authenticate" kmsfs backup "$T/backup"
exits 2 "keep" kmsfs backup forget "$T/backup"
exits 2 "at least 1" kmsfs backup forget --keep 0 "$T/backup"

story "killed in the middle: the last whole snapshot counts, and the next begins where it was"
head -c 40000000 /dev/urandom >"$T/m/plain/huge"
kmsfs backup "$T/backup" >"$T/.io/killed" 2>&1 &
begun=$((SECONDS + 120))
until [ -n "$(compgen -G "$T/backup/packs/*.tmp")" ]; do # without a pause: it does not take long
  [ "$SECONDS" -lt "$begun" ] || die "the backup did not begin"
done
for p in $(daemons); do kill -9 "$p" 2>/dev/null; done
wait
last=$(kmsfs backup list "$T/backup" | tail -n 1 | cut -d' ' -f1)
matches "snapshot $last .* is whole" kmsfs backup verify "$T/backup"
works kmsfs backup "$T/backup"
matches "snapshot $((last + 1)) .* is whole" kmsfs backup verify "$T/backup"
same "nothing half written is left" "" "$(find "$T/backup" -name '*.tmp')"

story "nothing in it opens it: no key file, no name, no content"
same "no key file" "" "$(find "$T/backup" -name 'root.key')"
same "no name and no content in clear" "" "$(grep -rlE 'under-two|second key' "$T/backup")"
mode=$(find "$T/backup" -perm /077 | head -n 1)
same "nobody else may read it" "" "$mode"

story "the disk is lost: another store is made of the backup"
mount_for admin "$T/m" -o allow_other
files_below "$T/m" >"$T/before"
records >"$T/before.records"
works kmsfs backup "$T/backup"
stop_daemon
cp -p "$T/store/root.key" "$T/root.key"
mv "$T/store" "$T/lost"
exits 4 "no unlock slot" kmsfs restore "$T/backup"
head -c 32 /dev/urandom >"$T/wrong.key" && chmod 600 "$T/wrong.key"
exits 4 "does not open the slot" kmsfs restore --key-file "$T/wrong.key" "$T/backup"
same "nothing was made" no "$(yes_if [ -e "$T/store" ])"
matches 'is whole' kmsfs backup verify --key-file "$T/root.key" "$T/backup"
mkdir "$T/store" && touch "$T/store/file"
exits 1 "is not empty" kmsfs restore --key-file "$T/root.key" "$T/backup"
rm -r "$T/store"
matches 'restored snapshot' kmsfs restore --key-file "$T/root.key" "$T/backup"
exits 1 "exists here already" kmsfs restore --key-file "$T/root.key" "$T/backup"
matches 'result: +clean' kmsfs fsck --data
works kmsfs audit verify
matches RestoreBackup sh -c "kmsfs --json audit query | grep -o RestoreBackup"
matches CreateBackup sh -c "kmsfs --json audit query | grep -o CreateBackup | head -n 1"
mount_for admin "$T/m" -o allow_other
files_below "$T/m" >"$T/after"
same "files are as they were, times and attributes and keys" "" "$(diff "$T/before" "$T/after" | head)"
records >"$T/after.records"
same "keys, policies and principals are as they were" "" "$(diff "$T/before.records" "$T/after.records" | head)"
works sh -c "echo more >$T/m/box/more && rm $T/m/box/dir/f2"
works kmsfs gc
stop_daemon
matches 'result: +clean' kmsfs fsck --data

story "an older snapshot shows one moment"
works kmsfs --store "$T/then" restore --key-file "$T/root.key" --snapshot 3 "$T/backup"
matches 'result: +clean' kmsfs --store "$T/then" fsck --data
mkdir "$T/t"
works kmsfs --store "$T/then" mount "$T/t"
same "exactly one of two names" 1 "$(find "$T/t/plain" -name 'here.*' | wc -l)"
a=$(wc -l <"$T/t/plain/a.log") b=$(wc -l <"$T/t/plain/b.log")
note "snapshot 3 has $a and $b lines, in the end there were $lines"
same "the second log is never ahead of the first, and at most one behind" yes "$(yes_if [ $((a - b)) -ge 0 -a $((a - b)) -le 1 ])"
works kmsfs --store "$T/then" umount "$T/t"
works kmsfs --store "$T/then" stop

story "increments go on from the restored store"
inc=$(added)
same "and are small" yes "$(yes_if [ "$inc" -lt 2500000 ])"
works kmsfs backup verify "$T/backup"

story "tampered with or incomplete: refused, and nothing is left behind"
cp -a "$T/backup" "$T/good"
pack=$(find "$T/backup/packs" -name '*.pack' -size +10M | head -n 1)
newest=$(find "$T/backup/snapshots" -name '*.snap' | sort | tail -n 1)
/usr/bin/python3 -c 'import sys; f = open(sys.argv[1], "r+b"); f.seek(5000000); f.write(b"tampered")' "$pack"
exits 5 "damaged, incomplete or was changed" kmsfs backup verify "$T/backup"
exits 5 "damaged, incomplete or was changed" kmsfs --store "$T/new" restore --key-file "$T/root.key" "$T/backup"
same "nothing was made" no "$(yes_if [ -e "$T/new" ])"
rm "$pack"
exits 5 "is missing" kmsfs --store "$T/new" restore --key-file "$T/root.key" "$T/backup"
cp -a "$T/good/packs/." "$T/backup/packs/"
/usr/bin/python3 -c 'import sys; f = open(sys.argv[1], "r+b"); b = bytearray(f.read()); b[len(b) // 2] ^= 1; f.seek(0); f.write(b)' "$newest"
exits 5 "does not authenticate" kmsfs --store "$T/new" restore --key-file "$T/root.key" "$T/backup"
rm "${newest%.snap}.keys"
cp "$T/good/snapshots/$(basename "$newest")" "$newest"
exits 5 "shred keys .* missing" kmsfs --store "$T/new" restore --key-file "$T/root.key" "$T/backup"
same "nothing was made" no "$(yes_if [ -e "$T/new" ])"
rm -r "$T/backup" && mv "$T/good" "$T/backup"

story "a key that was deleted is still in the backup; forgetting it there destroys it"
works kmsfs backup forget-key "$T/backup" alias/two
exits 1 "no such backup" kmsfs backup forget-key "$T/backup" "$other"
matches '1 of [0-9]+ keys forgotten' kmsfs backup list "$T/backup"
matches "$other was forgotten" kmsfs --store "$T/new" restore --key-file "$T/root.key" "$T/backup"
works kmsfs --store "$T/new" mount "$T/t"
refused "" cat "$T/t/box/under-two"
prints "file 9" cat "$T/t/box/dir/f9"
works kmsfs --store "$T/new" umount "$T/t"
kmsfs --store "$T/new" stop >/dev/null 2>&1
matches 'result: +clean' kmsfs --store "$T/new" fsck --data
rm -r "$T/new" "$T/then"

story "old snapshots go, and what no other needs"
before=$(size "$T/backup")
matches 'removed [1-9]' kmsfs backup forget --keep 1 "$T/backup"
same "the directory is smaller" yes "$(yes_if [ "$(size "$T/backup")" -lt "$before" ])"
works kmsfs backup verify "$T/backup"

story "a store put back file by file: refused, until the administrator accepts it"
mount_for admin "$T/m"
stop_daemon
cp -a "$T/store" "$T/copy"
gone=$(kmsfs key create --alias gone-later)
mount_for admin "$T/m"
echo "of later" >"$T/m/box/later"
stop_daemon
exits 2 "snapshot" kmsfs restore --accept --snapshot 1 "$T/store"
exits 2 "unexpected argument" kmsfs restore --accept "$T/store" "$T/copy"
exits 1 "no kmsfs store here" kmsfs restore --accept "$T/nothing"
matches 'nothing to accept' kmsfs restore --accept "$T/store"
for part in db redo; do
  rm -r "${T:?}/store/$part"
  cp -a "$T/copy/$part" "$T/store/$part"
done
exits 5 "older than its epoch file" kmsfs fsck
exits 5 "older than its epoch file" kmsfs mount "$T/m"
matches 'accepted: the store is at epoch [0-9]+, its epoch file had seen [0-9]+' kmsfs restore --accept "$T/store"
matches 'nothing to accept' kmsfs restore --accept "$T/store"
matches 'result: +clean' kmsfs fsck --data
matches AcceptStore sh -c "kmsfs --json audit query | grep -o AcceptStore"
mount_for admin "$T/m"
exits 3 "serves|another process" kmsfs restore --accept "$T/store"
same "it is the older one" no "$(yes_if [ -e "$T/m/box/later" ])"
prints "file 9" cat "$T/m/box/dir/f9"
works sh -c "echo anew >$T/m/box/anew"
works kmsfs gc
stop_daemon
matches 'result: +clean' kmsfs fsck --data

story "a key deleted since the copy stays deleted, and does not lock anyone out"
imported=$(kmsfs key create --alias doomed)
mount_for admin "$T/m"
: >"$T/m/box/doomed"
set_attr user.s3.sse "aws:kms:alias/doomed" "$T/m/box/doomed"
echo doomed >"$T/m/box/doomed"
stop_daemon
rm -r "$T/copy" && cp -a "$T/store" "$T/copy"
# What the deletion of a key does to the slot file, which is newer than the copy: that key's slot is overwritten.
/usr/bin/python3 - "$T/store/shred" "$imported" <<'END'
import sys, uuid
f, key = open(sys.argv[1], "r+b"), uuid.UUID(sys.argv[2]).bytes
b = f.read()
at = b.index(key) - 8
f.seek(at)
f.write(bytes(128))
END
exits 5 "shred slot" kmsfs key list
matches "deleted: arn:.*$imported" kmsfs restore --accept "$T/store"
lacks doomed kmsfs alias list
mount_for admin "$T/m"
refused "" cat "$T/m/box/doomed"
prints "file 9" cat "$T/m/box/dir/f9"
stop_daemon
matches 'result: +clean' kmsfs fsck --data
: "$key" "$gone"

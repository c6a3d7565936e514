#!/usr/bin/env bash
# The audit log as a person keeps it: what is cut off is missed and located, files end and old ones go, strict is strict.
. "$(dirname "$0")/lib.sh"
needs_root

new_store
works kmsfs key create --alias k
log=$KMSFS_STORE/audit

# events prints how many events the log has.
events() {
  kmsfs --json audit query | grep -c eventName
}

story "a log that nobody touched is whole, with and without a daemon"
works kmsfs audit verify
works kmsfs serve
works kmsfs key show alias/k
works kmsfs audit verify
works kmsfs stop

story "its end is cut off while the store is closed: the next start says so, verify locates it, and it stays so"
before=$(events)
works truncate -s -500 "$log/0000000000000001.audit"
works kmsfs serve
matches "cut at its end" cat "$KMSFS_STORE/daemon.log"
exits 5 "broken" kmsfs audit verify
matches "records? [0-9]+" sh -c "kmsfs audit verify || true"
works kmsfs key disable alias/k # the store is usable: who can delete a file locks nobody out
works kmsfs key enable alias/k
works kmsfs stop
exits 5 "broken" kmsfs audit verify
works kmsfs serve
exits 5 "broken" kmsfs audit verify
note "$before events before the cut, $(events) now"

story "a whole log that is removed is missed as well"
works kmsfs stop
rm -f "$log"/*.audit
exits 5 "broken" kmsfs audit verify
works kmsfs key create
exits 5 "broken" kmsfs audit verify

story "a kept log: files end, old ones go, and verify goes on from the oldest that is there"
rm -rf "$KMSFS_STORE"
new_store
works kmsfs serve
works kmsfs key create --alias k
exits 2 "neither" kmsfs audit keep --age soon
exits 2 "on or off" kmsfs audit keep --strict maybe
exits 2 "at least" kmsfs audit keep --file-size 1KiB
exits 2 "less than one file" kmsfs audit keep --size 1MiB
works kmsfs audit keep --file-size 4KiB --size 8KiB
matches "4 KiB" kmsfs audit keep
for _ in 1 2 3 4 5 6 7 8; do works kmsfs key rotate alias/k; done
works kmsfs stop
works kmsfs audit verify
matches "begins with event" kmsfs audit verify
matches "ExpireAuditLog" kmsfs --json audit query
works kmsfs audit keep --age 400d
matches "UpdateTrail" kmsfs --json audit query
same "no more files than were asked for" yes "$([ "$(find "$log" -name '*.audit' | wc -l)" -le 3 ] && echo yes)"
matches "400 d" kmsfs audit keep
oldest=$(find "$log" -name '*.audit' | sort | head -n 1)
cp "$oldest" "$T/oldest"
rm "$oldest"
exits 5 "broken" kmsfs audit verify
matches "missing" sh -c "kmsfs audit verify || true"
cp "$T/oldest" "$oldest"
works kmsfs audit verify

story "strict is a setting of the store, and of a daemon"
works kmsfs audit keep --strict on
matches "strict: +on" kmsfs audit keep
works kmsfs serve
matches "strict: +on" kmsfs audit keep
works kmsfs audit keep --strict off
matches "strict: +off" kmsfs audit keep
works kmsfs stop
works kmsfs serve --audit-strict
matches "strict: +on" kmsfs audit keep
works kmsfs stop
matches "strict: +off" kmsfs audit keep

story "strict: the event of a key that left is on disk when the file opens, although the daemon dies at once"
works kmsfs audit keep --strict on
works kmsfs serve
works kmsfs bucket create box --sse aws:kms:alias/k
mount_for admin "$T/m"
works sh -c "echo secret >$T/m/box/strict-file"
daemon=$(sed -n 's/.*pid=\([0-9]*\).*/\1/p' "$KMSFS_STORE/daemon.log" | tail -n 1)
prints secret cat "$T/m/box/strict-file"
kill -9 "$daemon"
eventually 10 sh -c "! kill -0 $daemon 2>/dev/null"
umount -l "$T/m" 2>/dev/null
works kmsfs audit verify
matches "strict-file" kmsfs --json audit query

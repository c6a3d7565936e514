// Package audit is the append-only log of every decision about a key, in the shape of CloudTrail's events.
//
// The log is a directory of files (0700, files 0600), each a header and a run of records. A record is one event: its JSON,
// sealed with XChaCha20-Poly1305 so that no name or path is on disk in clear, and a link of a keyed chain,
// HMAC-SHA256(chain key, previous link | record), so that nobody without the key can change, remove, insert or reorder
// anything in the middle without Verify finding it and saying where. FORMAT.md has the bytes.
//
// What a chain cannot show by itself is that its end was cut off. Head gives the durable end; kept somewhere else, it makes
// that visible too (Verify takes such anchors, Contains checks one quickly).
//
// # Appending
//
// Append takes the event and leaves: a background goroutine builds the JSON, seals it and writes. Events are never dropped.
// When the bounded queue is full, Append waits; when the disk refuses, the writer keeps what it has and tries again, and so
// the callers come to wait. With Options.Strict, Append returns only when the event is durable, and otherwise fails, so
// that a key need not leave without its event.
//
// # After a crash
//
// A crash can leave an incomplete record at the end of the last file. Open notes where the good part ends and begins a new
// file whose authenticated header says so; nothing is ever overwritten or cut. The same is done when Open finds
// damage: the log goes on, Verify keeps showing the break.
//
// # Locks
//
// Log.mu guards the queue and the published positions and is never held across I/O. Everything about the file being
// written belongs to the writer goroutine alone.
//
// The package is not a general logger and not a defence against who holds the log's key: he can write a new log.
package audit

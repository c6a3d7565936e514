// Package audit is the append-only log of every decision about a key, in the shape of CloudTrail's events.
//
// The log is a directory of files (0700, files 0600), each a header and a run of records. A record is one event: its JSON,
// sealed with XChaCha20-Poly1305 so that no name or path is on disk in clear, and a link of a keyed chain,
// HMAC-SHA256(chain key, previous link | record), so that nobody without the key can change, remove, insert or reorder
// anything in the middle without Verify finding it and saying where. FORMAT.md has the bytes.
//
// What a chain cannot show by itself is that its end was cut off. Head gives the durable end; kept somewhere else and given to
// Open and Verify as an anchor, it makes that visible too. Where Open finds the end missing, it does not refuse (or whoever can
// delete a file could lock everybody out): the log goes on behind the anchor, and the gap stays in it for Verify to show.
//
// # Keeping
//
// Settings say when a file ends (size, age) and what is kept (size of all files, age of events). The oldest files are removed whole.
// Where the log begins from then on is written down first, authenticated, and an event tells which records were removed, so that
// verification goes on from the oldest file that is kept and nobody else can remove one unnoticed.
//
// # Appending
//
// Append builds the event's JSON and leaves: a background goroutine seals it and writes. Nothing of the event is kept, and the buffers
// are used again, so that a busy log is no work for the garbage collector. Events are never dropped.
// When the bounded queue is full, Append waits; when the disk refuses, the writer keeps what it has and tries again, and so
// the callers come to wait. With Settings.Strict, Append returns only when the event is durable, and otherwise fails, so
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
// written belongs to the writer goroutine alone. Log.kept is held for reading while files are read and for writing, only ever by
// TryLock, while old ones are removed; Log.mu may be taken under it.
//
// The package is not a general logger and not a defence against who holds the log's key: he can write a new log.
package audit

// Package crypto holds the two values that travel through every room of kmsfs
// without being looked at: the data key and the encryption context.
//
// A DataKey is 32 secret bytes behind a closure. It prints as "[redacted]"
// under every fmt verb and in slog, refuses to be marshalled by encoding/json,
// encoding/gob, encoding/xml and anything that asks for text or binary, and
// cannot be compared with ==. The bytes leave only through Expose, so that
// `grep Expose` lists every place that touches them. They lie in locked memory
// outside Go's heap (arena.go), and Wipe overwrites them at once. So do the key
// schedules of AEAD and Block, into which the standard library expands them
// (expanded.go). What lies on stacks while something is computed is overwritten
// where it is ours; processes that hold keys should have the garbage collector
// overwrite what it frees, and refuse to dump core.
//
// A Context is the encryption context of S3 and KMS: a set of name and value
// pairs that is bound to a ciphertext as associated data. Its canonical
// encoding is injective, so that two different contexts never authenticate
// each other's ciphertexts:
//
//	u32 count, then count times (u32 len, name, u32 len, value)
//
// sorted by the names' bytes, integers big-endian. ParseContext accepts exactly
// the images of Canonical and nothing else.
//
// The package does no I/O and knows no policy. Wrapping keys is crypto/wrap's
// task, sealing file content crypto/block's.
package crypto

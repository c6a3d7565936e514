// Package keystore is the embedded KMS: keys with states, aliases, key policies, grants and rotation, and the cryptographic
// operations on them, under AWS KMS's names, rules and error texts.
//
// # What is kept, and where
//
// Keys, aliases, grants and the memory of deleted keys are documents in the ledger (kinds 'k', 'a', 'g', 'd'; FORMAT.md). A
// key has a list of 32-byte materials with random ids; new ciphertexts are made with the newest, old ones name theirs.
// Each material is wrapped under a key derived from the store's root key and the key's own shred key. Shred keys live
// in a small file of fixed slots. When a key's waiting period is over its documents are removed and its slot is
// overwritten and synced: then not even the root key opens copies of the old documents that a database keeps. What an
// SSD has remapped, a copy-on-write filesystem has kept or a backup has copied is beyond the reach of overwriting.
//
// Three kinds of keys differ only in their record: customer keys; alias/aws/s3, made on first need with a fixed
// policy that lets nobody change it; and the hidden store key behind SSE-S3, which no call can name.
//
// # The order of checks
//
// A call is checked for syntax, then whether the key exists, then authorisation, then the key's state, then the ciphertext,
// so that an outsider does not learn a key's state. Where a key does not exist, who would not have been
// allowed is told AccessDenied all the same. Every authorised or refused call leaves one audit event.
//
// # Concurrency
//
// A key's present state is an immutable snapshot behind an atomic pointer; what reads it (GenerateDataKey, Decrypt, …) takes no
// exclusive lock. Unwrapped material stays in memory until the key is deleted or the service closed, and is wiped then.
//
//	Service.manage    serialises changes: from the check of the state to the publication of the new snapshot, over the ledger's commit
//	  Service.index   guards the maps of keys and aliases, held for the time of a lookup
//	  key.use         shared while material is in use; exclusive to wipe it
//	  shredFile.mu    guards the slot file, held over its write and sync
//
// The functions given to OnChange run outside all of these, after the commit.
//
// # What it is not
//
// Not the store of principals (callers arrive as a policy.Identity), not the evaluator (package policy), not the wire
// protocol. Asymmetric, HMAC and multi-Region keys, and custom key stores answer UnsupportedOperationException.
package keystore

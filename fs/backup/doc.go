// Package backup copies a store, while it is in use, into a directory of its own, and puts a store together again from there.
//
// # What is copied
//
// A snapshot is one state of the rows (metadata, keys, policies, principals: everything is a row), the sealed extents that its extent
// maps name, the audit log, the shred keys, and the store's header with its unlock slots. Rows and extents are copied as they are
// stored, sealed; shred keys are sealed once more. Nothing that opens the store is in the backup except what the header's slots have
// wrapped: a key file stays where it is, and has to be kept somewhere else.
//
// Snapshots of the rows cost writers nothing (package kv). What the snapshot needs besides is held still: changes of keys for the moment
// in which it begins (Source.Freeze), so that rows and shred keys fit together; the freeing of extents that die while they are being
// copied (Source.Pin). Everything in the store that is copied is immutable, so nothing else has to wait.
//
// # The directory
//
//	lock                     held by whoever writes
//	packs/<id>.pack          blobs, written once, never changed
//	snapshots/<n>.snap       what snapshot n consists of; the backup is there when this file is
//	snapshots/<n>.keys       its shred keys, one sealed entry each
//
// Rows go into chunks of about 256, cut where the hash of a key says so, and so at the same places when rows come and go; a chunk is
// known by the MAC of its bytes. An extent is known by its address and the random salt of its sealing. What the last snapshot has
// under the same name is not copied again: an increment is the extents that are new and the chunks in which a row changed. The
// salt is what makes that safe after a restore, when two histories give out the same address.
//
// FORMAT.md has the bytes.
//
// # Crashes and tampering
//
// Packs are written under another name, synced and renamed; then the keys; then, last, the snapshot. So a snapshot that can be seen is
// whole. Every blob carries a keyed MAC, every index a MAC over its entries, and the snapshot is sealed with the names of all chunks
// and the MACs of all indexes in it: whatever is missing, changed, cut or moved is noticed before it is used. An older state of the
// whole directory is not noticed: it is an older backup.
//
// # Shredding
//
// A key that is deleted in the store is still in older snapshots, and whoever has the root key and the backup opens its files. ForgetKey
// overwrites its entries; Forget removes snapshots and the packs that no other needs.
//
// # Locks
//
// One process writes a directory at a time (flock of lock). The package has no other lock, and the types are not for concurrent use.
//
// What it is not: it knows no policy and no network, and it does not copy a store's directory file by file; a copy of the files of
// a stopped store is a backup too, and kmsfs restore --accept takes it back.
package backup

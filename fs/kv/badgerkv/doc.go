// Package badgerkv keeps rows on disk: Badger is the state, a redo log of ours is the durability.
//
// Badger alone does not keep the promises of kv.Store. Its Sync reaches only the active memory table's log, so after a power cut
// rows that were synced before a rotation are gone while newer ones are there; and on a full disk its mapped files raise SIGBUS,
// which ends the process. So it is used as a sorted table only:
//
//	Update    validate what was read, append the writes to the redo log (one write(2)), put them into the overlay
//	Sync      one fdatasync(2) of the redo log, shared by all who ask meanwhile; or, if nothing but deferred commits came since the
//	          last one, one write(2) past the page cache that is durable when it returns
//	applier   freeze the overlay; sync the redo log; write the frozen rows into Badger; fsync Badger's files by path; cut the
//	          redo log back; drop the frozen overlay
//	Open      what the redo log holds goes to Badger in the same way
//
// The order of the applier's steps is what makes a crash harmless at any time. A row reaches Badger only when its commit is
// durable in the redo log, because Badger's pages may reach the disk at any time, and half a commit must not. The redo log is
// cut only when Badger's copy is durable. Between the two, doing it all again has no effect: a row's version in Badger is the
// number of the commit that wrote it.
//
// # Snapshots
//
// The overlay keeps all versions of its rows, so a snapshot is the number of a commit and costs nothing. Badger is opened in
// managed mode and read at the last commit that was moved completely when the snapshot was taken; the versions that the snapshot
// may need are kept until it is given back. A long View therefore holds memory: the overlays of its time and old rows in Badger.
//
// # Full filesystems
//
// Update returns kv.ErrNoSpace below a reserve of free space; a transaction that deletes rows and sets little may use half of
// the reserve, and what was freed since a refusal may be used again. The redo log's files exist beforehand, so a commit itself needs
// no space; where the filesystem finds none for it all the same, as one that never writes in place may, the commit is refused. Others
// can still fill the filesystem faster than the reserve is looked at; whoever writes bulk data to the same filesystem should keep to
// the same reserve. Compact merges all tables, for which it may need as much as they take: it refuses where that is not there, because
// Badger's mapped tables would raise SIGBUS.
//
// # Bounds
//
// Memory: the overlays (Options.Overlay, 32 MiB, plus one transaction for every concurrent caller), Badger's tables in memory
// (at most four of about 10 MiB) and its table builders (up to eight of about 20 MiB while it compacts, given back after some
// idle seconds). Nothing grows with the number of rows except a few hundred bytes for every table file of 4 MiB: tables, their
// indexes and bloom filters are mapped, the page cache is the cache. Disk: the redo log needs at most what the overlays hold
// plus two segments. Goroutines: one applier, and about a dozen of Badger's.
//
// # Known limits of Badger
//
// A compaction that cannot build a table (the process has no file descriptors left, or msync fails) goes on without it and
// loses its rows (levels.go, subcompact: the deferred Done is given its error too early). Few, large tables keep away from the
// limit of descriptors; who counts and sums rows, as the ledger and the extent map do, notices the loss. A damaged block of a
// table reads as if some of its rows were not there, or were those of earlier, and a compaction may answer it with a panic in a goroutine
// of Badger's: so Open reads all tables and refuses damaged ones, and Verify finds what was damaged later. A deleted value stays in Badger's files until a compaction drops it.
//
// # Lock order
//
//	Store.commit         one commit at a time: validation, the append, publication; freezing the overlay
//	  redo.Log.mu        see there
//	  Store.mu           the current generation, the rows of the active overlay; never held over I/O
//	    room.mu          how much is pending, and whether the store failed; commits wait on it holding nothing
//
// No lock is held while a function of the caller runs, nor over a sync.
//
// What it is not: rows are stored as they are given, readable in the files; package sealed goes above.
package badgerkv

// Package fs is the volume behind all mounts: inodes, open files, dirty data, commit and read. It knows names, attributes and sealed
// bytes; it knows no principal and no policy (package mount does), and it takes plaintext data keys from whoever was allowed to have
// them.
//
// # Data
//
// WRITE copies into the inode's dirty runs in memory, where every reader of every mount sees it at once. A flush (close, fsync, too much
// memory, a few seconds) seals the runs into extents of up to 1 MiB, appends them to the extent store, and commits one transaction
// that maps the file's ranges to them, trims what they cover and remembers it. Committed bytes are never overwritten. A flush of up to
// 1 KiB, or of up to 16 KiB for fsync, goes into the rows instead, so that a small fsync is one sync; what a file gathers there
// moves to the segments at 256 KiB. A flush that fails leaves everything dirty, and the next one tries again.
//
// A file that is made to be written has no rows before its first flush, which makes them in the same transaction: a small file is one
// commit (unborn.go).
//
// A file that replaces another by rename is made durable first if it is not: then the name never leads to less than the old or the new
// content, whatever happens.
//
// Random writes leave extents behind of which a part is dead, and maps of many small pieces. Both are cured while a writer holds the
// file (merge.go): a flush of a wasteful file seals again what is left in the extents that are the most dead, and a worker joins small
// neighbours.
//
// # Epochs
//
// Between syncs the kernel may write rows back before the bytes they name. So commits belong to epochs; closing one (epoch.go) makes all
// of it durable. After an unclean stop, extents of epochs that were not closed are checked by their CRC, and what was lost is cut from
// the map and replaced by what it had replaced (recover.go). Dead space is freed (package gc) only when its epoch is closed.
//
// # Locks
//
//	inode.flushMu            one per inode: flush, truncate, punch, merge, re-key
//	appendGate.mu            read-locked from the first append of a flush to the end of its commit
//	Volume.ns                one: changes of the namespace and first flushes write-lock it, putting a path together read-locks it
//	  inode.mu               the committed row, data pointer. Only the holder of ns locks more than one
//	    Volume.epochMu       read-locked by each commit
//	      fileData.mu        dirty runs, extent map, live attributes
//	        fileData.keyMu   data keys
//	nameTable.mu, before names.mu, before both of which comes inode.mu
//	inodeCache.mu, zombieTable.mu, unborn.mu, parking.mu, flusher.mu, merger.mu, lookupTable, usage.mu: leaves (flusher.mu and merger.mu before inodeCache.mu)
//
// Inside each commit, after all of these: the gate of the index of files by key (meta/uses.go), read-locked.
//
// quotas.mu, held while a bucket with a quota is counted, comes before all of them.
//
// flushMu comes before inode.mu and is never taken under ns. No lock but flushMu is held while extents are written or synced; inode.mu
// (and ns) are held across the append to the redo log that a commit is.
//
// # Limits
//
// Dirty bytes: Config.MaxDirty for all files, 32 MiB and 8,192 runs for one; a writer that would exceed them flushes first. Inodes in
// memory: Config.MaxInodes beyond those that are open or unborn. Entries of directories in memory: 131,072. A kernel that knows an inode costs a counter. An open file keeps its extent
// map, about 200 bytes a piece; of closed files, maps of 262,144 pieces in all are kept.
package fs

// Package segment keeps extents in local files: append-only segments of 256 MiB
// that all inodes share, so that random writes of many files become sequential
// ones of a few, and a sync touches a few files however many were written.
//
// # Addresses
//
// A segment is a file named by its number. It starts with a header block and
// holds extents at 4 KiB boundaries, back to back. Free punches holes into
// exactly the blocks an extent covered, and a segment with nothing left is
// unlinked. Nothing is ever written where an address was given out before:
//
//   - a segment's file and directory entry are durable before its first address
//     is given out, so a number is not used twice;
//   - the highest segment is kept, even if empty, so that Open can see the
//     highest number used;
//   - an unclean end leaves the last segment as it is, and the next session
//     starts a new one: after a loss of power, metadata may name bytes beyond
//     the end that the file now has. A clean Close leaves a mark with the true
//     end, and the next session goes on there, after it has durably removed the
//     mark.
//
// FORMAT.md gives the bytes.
//
// # Writing
//
// Append reserves its place under a lock and writes outside it, so many may
// write at once. The next segment is made while the current one fills. A
// background goroutine asks the kernel to start writing back every few MiB
// (sync_file_range), so that a Sync after a long write finds most of the work
// done, and to set the next blocks aside. Sync is fdatasync of the segments written since the last one; callers
// that come while one runs share the next.
//
// After a failed fdatasync the kernel has marked the lost pages clean and would
// report success to the next caller. The store therefore remembers: the segment
// takes no more extents, and every Sync fails until the store is opened again.
// Open, after an unclean end, drops what the kernel has cached of every segment,
// so that whoever then checks the extents of the last session reads what the
// disk has.
//
// The free space that Options.Reserve holds back is for those who cannot be
// refused, above all the metadata store. It is checked with statfs once per 16
// MiB or 100 ms, so it may be overrun by about that much.
//
// # Locks
//
//	syncMu      the queue of Sync callers
//	mu          active and next segment, reservations
//	└── files.mu    open descriptors
//	space.mu    the budget of free space
//
// None of them is held across a system call that waits for the disk; space.mu is
// held across statfs, which on a local file system does not.
//
// What the package is not: it neither checks nor encrypts content, it knows
// nothing of inodes, and it moves nothing: a segment with one live extent left
// takes that extent's blocks and a header.
package segment

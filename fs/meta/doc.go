// Package meta keeps a volume's metadata: buckets, inodes, directory entries, the extent maps of files, extended attributes and
// the rows that crash recovery and space reclamation need. It knows what a row looks like (codec.go), which key it has (keys.go,
// the one key table) and how rows hang together; it does not know locks, open files or policies.
//
// The store underneath seals every value with its key as associated data, so a row can neither be read, forged nor moved. What is
// left to an attacker is to drop a row or to put back an older one. Against that an inode's row carries fingerprints (Set) of the
// rows that belong to it: a directory's of its entries, a file's of its pieces, and of the extended attributes. They cost one keyed
// hash per change and are checked when the rows are read as a whole.
//
// A directory entry is found by 63 bits of a keyed hash of its name. The hash is the readdir cookie too: it is stable under any
// change of the directory, and since it is keyed nobody can craft names that collide. Should two names collide all the same, a
// tie-break follows; the entries of one hash are numbered without gaps, so that a lookup is one point read as a rule.
//
// FORMAT.md has the bytes.
package meta

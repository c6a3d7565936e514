// Package mount puts a principal at the door of a volume.
//
// A Session is one principal's view of a volume, with one method per operation of a file system. Each method asks the two gates
// and only then acts:
//
//   - the S3 gate: may the principal do this to this object name? Decided by his identity policies and the bucket's policy. A file
//     system opens inodes, not names, so for an inode with several names a Deny on any of them wins, reading needs an Allow on one,
//     writing on all.
//   - the KMS gate, for files under a KMS key only: reading and changing content needs kms:Decrypt, making or emptying a file needs
//     kms:GenerateDataKey. Names, attributes, renames and deletions never ask it.
//
// Rights are looked at when a file is opened, and again when something changed that they rest on: policies, keys, grants, a
// bucket's policy, a file's key, names. A counter in the Hub, the epoch, grows with each such change; a Handle whose epoch is old
// decides anew before its next read or write, and the Hub makes every session look through its handles at once, so that kernel
// caches are dropped too.
//
// Most principals may do either everything or nothing in a bucket. policy.ConstantS3 finds those cases, the answer is kept with the
// bucket, and then no object name is built at all.
//
// The Hub joins the sessions over one volume. What one session changed, the kernels behind the others must hear, because each mount
// has caches of its own; package fusefs registers a Notifier per session for that.
//
// Advisory locks (flock, fcntl) live in the Hub too, so that they hold across mounts; an owner is a kernel's own name for it together
// with the session, and every lock ends with the handle that it was taken through, at the latest.
//
// Lock order: Hub.beneath, then Handle.mu, then looker.mu, then Hub.mu, Session.mu and lockTable.mu (leaves). No lock but Handle.mu is held while keys are asked for
// or the volume reads or writes.
//
// This package is not a file system (fs is) and knows nothing of FUSE (fusefs does).
package mount

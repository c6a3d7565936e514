// Package fusefs puts a mount.Session before a kernel: it translates go-fuse's raw API, keeps the kernel's caches honest, and mounts.
//
// Node ids are inode numbers, so there is no tree in memory: per inode that a kernel knows there is one small record (interest.go),
// which counts its lookups and says what the kernel may believe of it.
//
// # Caches
//
// Everything is cached by the kernel for as long as it likes: entries (also negative ones), attributes, pages. What another mount
// changes is told to it (notify.go), and only if it looked since it was last told. Two things make that exact:
//
//   - Interest is registered before state is read. Whoever changes state looks at the interest afterwards. So either the reader saw
//     the change, or the changer sees the reader.
//   - A reply that is still on its way may carry old state past a notification. For attributes of an inode that the kernel knows, it
//     compares versions itself; pages are locked while a READ is out; a first LOOKUP holds the directory. What is left, a first
//     reply about an inode (the notification fails with ENOENT) and the revalidation of an entry, is notified again once the reply
//     must have arrived.
//
// # Deadlocks
//
// An operation's reply waits until the other kernels have been told. A kernel can be told about pages only when it holds no lock on
// them, and it holds one while it waits for the reply to a WRITE; and about an entry only while no directory operation is under way
// there. So nobody waits for a mount that has such a request in flight on the same object: the two calls are concurrent, and either
// order is legal. Where a kernel may have locked something without telling us, a wait that could be part of a ring ends after a moment
// (notifier.wait); the notification is sent all the same. Notifications run in goroutines of their own, since each may block in the kernel; except
// where that cannot end in a ring (notifier.now).
//
// # What it is not
//
// It decides no right and changes nothing by itself: Session does.
package fusefs

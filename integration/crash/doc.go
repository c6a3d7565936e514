// Package crash holds tests that break the store from below: they kill the
// daemon, cut the power under its file system and fill its disk, while seeded
// random work goes on through two mounts, and then hold it to its promises
// (docs/reliability.md).
//
// The test process itself never touches a mount, which might hang it: workers
// and verifiers are children of it (these tests, built once more, with a role
// in its environment), and every one of them has a deadline.
//
// A worker draws operations from its seed, alternating between two mounts of
// two principals, and writes each to a journal on an ordinary disk before it
// begins and after it was acknowledged. Content describes itself: every eight
// bytes name the write that wrote them and their place in the file. A verifier
// replays the journal into a model and compares the model's states with what
// the mounts show:
//
//   - after a kill, the tree is the one after the last acknowledged operation
//     or after the one under way, and each file is at least what it was at its
//     last close or fsync, plus some of the writes since, in order;
//   - after a power cut, the tree is the one after some operation not before
//     the last fsync, but that a file made since then and never closed may be
//     missing; each byte of a file is one of those that were there since
//     its last fsync, and a file that was renamed over another is complete.
//
// What is not: a soak test of everything (integration/soak.sh), nor a test of
// who may do what.
//
// Environment:
//
//	KMSFS_CRASH_SEED=n     the first round's seed: replays a failed round
//	KMSFS_CRASH_ROUNDS=n   kill rounds (20), for long runs
//	KMSFS_POWER_ROUNDS=n   power cuts on each file system (3)
//	KMSFS_FAULTS=n         I/O errors below mounts (6); -1: every one
//	KMSFS_RESTARTS=n       stops and starts (12)
//	KMSFS_LIFE_MINUTES=n   how long TestLongLife watches a daemon (0: not at all)
//	KMSFS_CRASH_KEEP=1     keep the directories of failed rounds
package crash

// Package kv is the seam between kmsfs and whatever keeps its rows: an ordered, transactional map from byte strings to byte
// strings. Inodes, directory entries, extent maps, keys and policies are rows behind it.
//
// The interface is deliberately small, because a second engine (a distributed one, say) has to be able to keep every promise
// that is written here. Those promises are tested by package kvtest, which every engine runs.
//
// # Isolation
//
// A View sees one state of the store, however long it runs and whatever commits meanwhile. An Update is optimistic: it sees
// one state too, plus its own writes, and commits only if every key that it read with Get still has the version that it saw;
// otherwise it is run again. Keys that were only passed by a Scan are not tracked: a row inserted into a scanned range goes
// unseen. Whoever decides by a Scan must therefore also Get (and Set) a row that stands for the range, or hold a lock.
//
// # Durability
//
// There are two steps. An Update that returned nil survives the death of the process. It survives a power cut once a Sync that
// began later has returned nil. (An engine may know a third kind: see Deferrer.)
//
// # What it is not
//
// Rows are opaque here. Sealing them is package sealed's work, naming them package meta's.
package kv

import "errors"

// Limits that every engine accepts, in bytes. What is larger makes Update return ErrTooBig. A decorator such as package sealed may
// take up to 64 bytes of each value for itself.
const (
	MaxKeySize   = 1 << 10
	MaxValueSize = 512 << 10
	MaxTxnSize   = 8 << 20 // keys and values of all Sets and Deletes of one transaction
	FreeingSets  = 8 << 10 // keys and values that a transaction may Set and still count as one that makes space
)

// The errors of an engine. They arrive wrapped; test with errors.Is.
var (
	// ErrNotFound: the key has no row.
	ErrNotFound = errors.New("kv: row not found")
	// ErrConflict never leaves an engine: it is what makes Update run its function again. A function given to Update may
	// return it to ask for that itself.
	ErrConflict = errors.New("kv: transaction conflict")
	// ErrNoSpace: the store refuses to grow. Nothing was applied; a transaction that deletes rows and sets at most FreeingSets
	// bytes may still succeed, so that space can be made.
	ErrNoSpace = errors.New("kv: no space left")
	// ErrCorrupt: stored bytes are not what was written.
	ErrCorrupt = errors.New("kv: corrupt")
	// ErrClosed: the store was closed.
	ErrClosed = errors.New("kv: store is closed")
	// ErrFailed: an earlier I/O error left the state of the disk unknown. Reads go on, Update and Sync are refused until the
	// store is opened again.
	ErrFailed = errors.New("kv: store failed")
	// ErrTooBig: a key, a value or a whole transaction exceeds the limits above, or a key is empty. Nothing was applied.
	ErrTooBig = errors.New("kv: key, value or transaction exceeds the limits")
)

// Reader reads one consistent state of a store. It is valid only inside the function it was given to, on one goroutine.
type Reader interface {
	// Get returns a copy of the row's value that the caller may keep and change, or ErrNotFound. An empty value is not nil.
	Get(key []byte) ([]byte, error)

	// Scan calls fn for the rows with start <= key < end in ascending order of key bytes, until fn returns false or an error,
	// which Scan returns as it is. A nil start means the first row, a nil end means past the last. The slices belong to the
	// engine and are valid only inside fn. In a Txn, Scan sees the writes made before it began; fn may Set and Delete.
	Scan(start, end []byte, fn func(key, value []byte) (more bool, err error)) error
}

// Txn is a Reader that sees its own writes. Set and Delete copy what they keep, and cannot fail: what is wrong with them
// (ErrTooBig) is what Update returns. Deleting a key that has no row is allowed.
type Txn interface {
	Reader
	Set(key, value []byte)
	Delete(key []byte)
}

// Store is a transactional ordered map. All methods may be called concurrently, except that the functions given to View and
// Update must not call Update, Sync or Close of the same store.
type Store interface {
	// View runs fn once over a consistent snapshot and returns its error.
	View(fn func(Reader) error) error

	// Update runs fn and applies its writes atomically. If fn returns an error nothing is applied and Update returns that
	// error. If a key that fn read with Get was changed meanwhile, fn runs again, so it must have no effects of its own that
	// cannot be repeated. Update that returned nil survives a crash of the process, and later Views see it.
	//
	// ErrNoSpace and ErrTooBig mean that nothing was applied. ErrFailed means that the store cannot tell: the transaction may
	// be there after the next Open or may not, but it is not visible before.
	Update(fn func(Txn) error) error

	// Sync returns nil once every Update that had returned before the call is durable against power loss. Concurrent callers
	// share the work.
	Sync() error

	// Close waits for running transactions and releases the store, durably. Calls after it return ErrClosed.
	Close() error
}

// Deferrer is a Store that has less work with a commit whose owner calls Sync next.
type Deferrer interface {
	// UpdateDeferred is Update, except that what it committed survives the death of the process only once a later Update or Sync
	// has returned nil. Commits stay in their order: none is there afterwards without those before it.
	UpdateDeferred(fn func(Txn) error) error
}

// UpdateDeferred is for who calls Sync next, and says nothing to anybody before: it is UpdateDeferred of a Store that has it, else Update.
func UpdateDeferred(s Store, fn func(Txn) error) error {
	if d, ok := s.(Deferrer); ok {
		return d.UpdateDeferred(fn)
	}
	return s.Update(fn)
}

// PrefixEnd returns the smallest key that is greater than every key with the given prefix, to be used as the end of a Scan:
// nil, meaning past the last row, if there is none (the prefix is empty or all 0xff).
func PrefixEnd(prefix []byte) []byte {
	for i := len(prefix) - 1; i >= 0; i-- {
		if prefix[i] != 0xff {
			end := append([]byte(nil), prefix[:i+1]...)
			end[i]++
			return end
		}
	}
	return nil
}

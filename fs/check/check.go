// Package check is fsck: it looks whether the rows of a volume agree with one another and with the extent store, while the volume is in
// use or not.
//
// Everything about rows is looked at in one snapshot, so that changes under way do not look like damage. The engine keeps what the
// snapshot may need until it is given back; the checker keeps an entry of some hundred bytes for each inode, and with Options.Data one
// for each extent. What is looked at:
//
//	inodes      decode; numbers below the counter; link count = names; every name is an entry; a directory's ".." is its one name;
//	            no cycles, everything hangs below the bucket that its row says; sealing has its generations
//	entries     decode; the inode is there, has that type and that name; the key is the hash of the name
//	row sets    entries, pieces and attributes are those that the inode's row accounts for: none missing, replaced or added
//	extents     pieces do not overlap, lie in their extent and before the end of the file; pieces agree about an extent; extents do not
//	            overlap in the segments and are not shared by files; inline bytes are there
//	key index   the index of each KMS key names the blocks of inodes in which its files are (it may name others)
//	keys        files whose KMS key is gone
//	quotas      what a bucket's counters say is what it holds
//	orphans     rows without an inode and without a tombstone
//	store       how many bytes are stored, named by rows, and named by nothing (package gc frees those)
//
// With Options.Data it also reads every extent: the CRC32C of the sealed bytes in the segments is compared, which needs no key, and every
// block is opened with the file's data key (AES-GCM), which finds what an attacker changed too; what was opened goes nowhere. Data keys
// come from Options.Keys. Files whose KMS key was deleted, or lacks its imported material, are no damage: the report names them
// apart, and their content is compared by checksum alone.
//
// Quotas: the counters of a bucket are compared with what the snapshot holds if the bucket was at rest when the snapshot was taken.
//
// Repair changes little: link counts and lists of names are set to what the entries say, the key index to what the inodes say, quotas
// are counted anew, and what lost its place moves into the directory lost+found of its bucket: inodes that no entry names, and entries
// whose inode is gone, as a symbolic link that tells directory, name and inode number in words (there is nothing else left of them). Each
// is reported. Nothing else is touched; in particular a row set that does not agree stays as it is, because that is what tells a reader
// that something is missing.
//
// A row that cannot be read is reported with what hangs on it, and ends nothing. Rows that say nothing but their key (of the index of files
// by key) or next to nothing (tombstones) are written anew. An inode whose row cannot be read keeps its entries and its rows, since nobody
// knows what they are worth; what is in it, if it was a directory, moves to lost+found. Where an entry cannot be read or is not there, it is put
// back if the inode that it named and the directory agree about it to the last bit; else that inode moves there too, if it has no other
// name. Quotas are not counted anew while inodes cannot be read. Nothing is repaired if a scan
// ended early: what lies behind would look lost.
package check

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"

	"github.com/kmsfs/kmsfs/fs/extent"
	"github.com/kmsfs/kmsfs/fs/meta"
)

// Volume is what the checker asks of the volume.
type Volume interface {
	Rows() *meta.DB
	// Snapshot is Rows().View; counted is what the buckets with a quota have on their counters, as far as they are at rest.
	Snapshot(fn func(r *meta.Reader, counted map[meta.Ino]meta.Usage) error) error
	SettleAppends() error
	Mender
}

// Mender is what a repair asks of the volume.
type Mender interface {
	Repair(func(*meta.Tx) error) error // with nothing open and no mounts
	NewIno() (meta.Ino, error)
	RecountQuotas(context.Context) error
	CloseEpoch() error
}

// Options say what is done.
type Options struct {
	Data     bool // read and authenticate every extent
	Repair   bool
	Now      int64          // the time of what Repair makes, ns since 1970
	Workers  int            // readers at once; 0: 4
	Keys     Keys           // nil: key references are not looked at, and data is compared by checksum alone
	StoreID  [16]byte       // that blocks are bound to
	Progress func(Progress) // called now and then, by one goroutine at a time; may be nil
}

// Progress says how far the checker is.
type Progress struct {
	Phase string `json:"phase"` // rows, data
	Done  int64  `json:"done"`  // rows, bytes
	Total int64  `json:"total"` // bytes; 0 if not known
}

// Problem is something that should not be.
type Problem struct {
	Kind    string   `json:"kind"`
	Ino     meta.Ino `json:"inode,omitempty"`
	Message string   `json:"message"`
	Repair  string   `json:"repair,omitempty"` // what was done about it
	Known   bool     `json:"known,omitempty"`  // to be lost: an earlier repair wrote it down
	Record  string   `json:"record,omitempty"` // where this repair wrote it down
}

// The kinds of problems.
const (
	BadRow       = "bad-row"       // cannot be read or decoded
	BadCounter   = "bad-counter"   // numbers beyond the volume's counters
	BadEntry     = "bad-entry"     // entry and inode disagree
	LostEntry    = "lost-entry"    // entries that inodes and directory remember
	Dangling     = "dangling"      // entry without an inode
	Nameless     = "nameless"      // inode without an entry
	BadLinks     = "bad-links"     // link count or list of names
	BadTree      = "bad-tree"      // cycle, or in another bucket than the row says
	BadSet       = "bad-set"       // rows missing, replaced or added
	BadMap       = "bad-map"       // extent map
	Overlap      = "overlap"       // extents share blocks of a segment
	BadKeyIndex  = "bad-key-index" // index of files by key
	BadSealing   = "bad-sealing"   // data-key generations, or a data key that does not open
	BadQuota     = "bad-quota"     // counters of a bucket with a quota
	Orphan       = "orphan"        // row of an inode that is not there
	MissingData  = "missing-data"  // sealed bytes that are not there
	BadData      = "bad-data"      // sealed bytes that cannot be read, or were changed
	Unrepairable = "unrepairable"  // a repair failed
)

// maxProblems is how many problems a report lists; all are counted.
const maxProblems = 10_000

// Report is what was found.
type Report struct {
	Complete    bool           `json:"complete"` // every row could be read
	Inodes      int64          `json:"inodes"`
	Directories int64          `json:"directories"`
	Files       int64          `json:"files"`
	Entries     int64          `json:"entries"`
	Pieces      int64          `json:"pieces"`
	Inline      int64          `json:"inlineExtents"`
	Extents     int64          `json:"extents"` // in the segments
	Removed     int64          `json:"removedInodes"`
	KeysGone    []KeyGone      `json:"keysGone"`
	Quotas      Quotas         `json:"quotas"`
	Data        *Data          `json:"data,omitempty"`
	Space       *Space         `json:"space,omitempty"`
	Counts      map[string]int `json:"problemCounts"`
	Problems    []Problem      `json:"problems"`
	Repaired    int            `json:"repaired"`
	Known       int            `json:"known"`    // losses that an earlier repair wrote down
	Recorded    int            `json:"recorded"` // losses that this one wrote down
}

// KeyGone is a KMS key that files are under and that opens nothing any more.
type KeyGone struct {
	ARN    string     `json:"arn"`
	Why    string     `json:"why"`
	Files  int64      `json:"files"`
	Inodes []meta.Ino `json:"inodes"` // the first of them
}

// Quotas says how many buckets with a quota there are.
type Quotas struct {
	Checked int64 `json:"checked"`
	Busy    int64 `json:"busy"` // in use or being counted at the time: not compared
}

// Data says what was read with Options.Data; bytes are sealed ones.
type Data struct {
	Extents        int64 `json:"extents"` // in rows too
	Bytes          int64 `json:"bytes"`
	Bad            int64 `json:"bad"`
	Authentic      int64 `json:"authenticatedExtents"`
	AuthenticBytes int64 `json:"authenticatedBytes"`
	Sums           int64 `json:"checksumOnlyExtents"` // of files whose KMS key is gone, and of removed files
	SumBytes       int64 `json:"checksumOnlyBytes"`
	SumFiles       int64 `json:"checksumOnlyFiles"` // whose KMS key is gone
}

// Space is how the extent store is used.
type Space struct {
	Stored       int64 `json:"storedBytes"`
	Referenced   int64 `json:"referencedBytes"`
	Unreferenced int64 `json:"unreferencedBytes"`
}

// Clean reports whether nothing is wrong that was not repaired and that no earlier repair wrote down as lost.
func (r *Report) Clean() bool {
	return (r.Complete || r.Known > 0) && r.Repaired+r.Known == r.Total()
}

// Total is the number of problems.
func (r *Report) Total() (n int) {
	for _, c := range r.Counts {
		n += c
	}
	return n
}

func (r *Report) add(kind string, ino meta.Ino, format string, a ...any) int {
	r.Counts[kind]++
	if len(r.Problems) >= maxProblems {
		return -1
	}
	r.Problems = append(r.Problems, Problem{Kind: kind, Ino: ino, Message: fmt.Sprintf(format, a...)})
	return len(r.Problems) - 1
}

// Run checks the volume. An error says that the check itself failed; what is wrong with the volume is in the report.
func Run(ctx context.Context, vol Volume, extents extent.Store, o Options) (*Report, error) {
	if o.Workers <= 0 {
		o.Workers = 4
	}
	c, err := run(ctx, vol, extents, o)
	if err == nil && o.Repair {
		if err = c.repair(); err == nil {
			err = c.record()
		}
	}
	if err != nil {
		return nil, fmt.Errorf("check: %w", err)
	}
	return c.rep, nil
}

// run looks at everything.
func run(ctx context.Context, vol Volume, extents extent.Store, o Options) (*checker, error) {
	c := &checker{ctx: ctx, vol: vol, extents: extents, o: o, rep: &Report{
		Complete: true, KeysGone: []KeyGone{}, Counts: map[string]int{}, Problems: []Problem{},
	}}
	ranger, _ := extents.(extent.Ranger)
	var position extent.Position
	if ranger != nil {
		position = ranger.Position()
		if err := vol.SettleAppends(); err != nil {
			ranger = nil // what the rows name is not known for certain
		}
	}
	err := vol.Snapshot(func(r *meta.Reader, counted map[meta.Ino]meta.Usage) error {
		c.r, c.counted = r, counted
		return c.rows()
	})
	if err == nil && ranger != nil && c.rep.Complete {
		err = c.space(ranger, position)
	}
	if err == nil && ranger != nil {
		err = c.stored(ranger)
	}
	c.dataFrom = len(c.rep.Problems)
	if err == nil && o.Data {
		err = c.data()
	}
	c.dataEnd = len(c.rep.Problems)
	c.recognise()
	return c, err
}

type checker struct {
	ctx     context.Context
	vol     Volume
	extents extent.Store
	o       Options
	rep     *Report
	r       *meta.Reader

	inodes  map[meta.Ino]*node
	damaged map[meta.Ino]*damaged
	unread  map[meta.Ino]bool // directories with an entry that cannot be read
	ended   bool              // a scan ended early
	tombs   map[meta.Ino]bool
	super   meta.Super
	uses    map[meta.KeyUse]bool
	inline  map[inlineID]bool // inline extents that are named; true: by a map, so that they must be there
	blocks  extent.Blocks
	live    extent.Blocks          // that maps name
	lacking map[meta.ExtentID]bool // extents that are not there, or not all
	known   map[string]bool        // digests of losses that were written down
	jobs    []job
	fixes   []fix

	gone    map[string]*KeyGone // by ARN; nil: the key is there
	limited []meta.Ino          // buckets with a quota
	held    map[meta.Ino]meta.Usage
	counted map[meta.Ino]meta.Usage

	seen              atomic.Int64
	dataFrom, dataEnd int // problems that reading the data found
}

// node is what the checker keeps of an inode.
type node struct {
	row      *meta.Inode      // without target and bucket configuration
	entries  []link           // that name it
	stray    []meta.RawDentry // that name it and whose directory is not there or cannot be read
	subdirs  uint32
	set      meta.Set // of its entries or pieces
	attrs    meta.Set
	reached  uint8 // of the search for cycles: 1 under way, 2 hangs below the root
	lastEnd  uint64
	covered  uint64
	mapWrong bool
}

// damaged is what hangs on an inode whose row cannot be read.
type damaged struct {
	why     error
	entries []link // that name it
	held    int64  // entries in it
	pieces  int64
	attrs   int64
}

// link is an entry seen from its inode.
type link struct{ meta.Link }

type inlineID struct {
	ino meta.Ino
	id  meta.ExtentID
}

func (c *checker) progress(phase string, done, total int64) {
	if c.o.Progress != nil {
		c.o.Progress(Progress{phase, done, total})
	}
}

// step counts a row.
func (c *checker) step() error {
	if n := c.seen.Add(1); n%10_000 == 0 {
		c.progress("rows", n, 0)
	}
	return c.ctx.Err()
}

// scan runs one scan. One that ends early makes the report incomplete and the check go on.
func (c *checker) scan(what string, err error) error {
	if err == nil {
		return nil
	}
	if ctxErr := c.ctx.Err(); ctxErr != nil {
		return ctxErr
	}
	if errors.Is(err, errStop) {
		return err
	}
	c.rep.Complete, c.ended = false, true
	c.rep.add(BadRow, 0, "%s: %v; what lies behind was not looked at", what, err)
	return nil
}

var errStop = errors.New("stopped")

package fusefs

import (
	"fmt"
	"testing"

	"github.com/kmsfs/kmsfs/mount"
)

// list answers a process's listing of a directory of n files and says how many had attributes.
func (l *listers) list(pid uint32, dir uint64, n int) (plus int) {
	const piece = 200
	for at := 0; at < n; at += piece {
		if !l.wants(pid, dir, at == 0) {
			continue
		}
		for range min(piece, n-at) {
			if !l.sample(pid, dir) {
				plus++
			}
		}
	}
	return plus
}

// TestListers: who looks at what it lists gets attributes, who does not, soon gets names only.
func TestListers(t *testing.T) {
	var l listers
	for dir := range uint64(10) {
		if plus := l.list(1, dir, 1000); plus < 990 {
			t.Errorf("directory %d: %d of 1000 entries with attributes for who looks at all", dir, plus)
		}
		l.looked(1, dir)
	}
	if plus := l.list(2, 1, 1000); plus < 990 {
		t.Errorf("a new process got %d of 1000 with attributes", plus)
	}
	for dir := range uint64(bareListings) {
		if plus := l.list(2, 100+dir, 1000); plus != 0 {
			t.Errorf("listing %d of who looks at nothing: %d of 1000 with attributes", dir, plus)
		}
	}
	if plus := l.list(2, 200, 1000); plus < 990 {
		t.Errorf("it is not tried again: %d of 1000", plus)
	}
	if l.list(2, 201, 1000) != 0 {
		t.Error("nor given up again")
	}
	l.looked(2, 201)
	if l.list(2, 202, 1000) < 990 {
		t.Error("who begins to look gets no attributes")
	}
	for dir := range uint64(10) { // too small for a sample
		if plus := l.list(3, 300+dir, sampleEvery-1); plus != sampleEvery-1 {
			t.Errorf("small directory: %d", plus)
		}
	}
	if plus := l.list(4, 400, 10*plusAtMost); plus > plusAtMost+sampleEvery {
		t.Errorf("%d entries of one directory with attributes for who has not looked", plus)
	}
}

// TestInterestBound: a kernel may know as many entries as are kept on record, whatever directories they are in, and not many more.
func TestInterestBound(t *testing.T) {
	clock := int64(2 * straggle)
	tab := newInterest(func() int64 { clock += straggle; return clock })
	evicted := 0
	tab.evict = func(shard int, keys []entryKey) {
		evicted += len(keys)
		tab.evicted(shard, keys, tab.now())
	}
	for i := range maxEntries {
		tab.entry(entryKey{mount.Ino(5), fmt.Sprint(i)})
	}
	if evicted != 0 {
		t.Errorf("%d entries evicted although there was room", evicted)
	}
	for i := range maxEntries {
		tab.entry(entryKey{mount.Ino(5 + i%1000), fmt.Sprint("x", i)})
	}
	count := 0
	tab.eachEntry(func(entryKey) { count++ })
	if known := int(tab.known.Load()); known != count {
		t.Errorf("%d entries counted, %d there", known, count)
	}
	if count > maxEntries+evictAtOnce {
		t.Errorf("%d entries on record", count)
	}
	tab.eachEntry(func(k entryKey) { tab.dropped(k) })
	if known := tab.known.Load(); known != 0 {
		t.Errorf("%d entries counted when all are dropped", known)
	}
}

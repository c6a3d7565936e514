package kvtest

import (
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"testing"

	"github.com/kmsfs/kmsfs/fs/kv"
)

// Seed returns the seed of a random test, and prints it. KMSFS_SEED chooses it.
func Seed(t testing.TB) uint64 {
	t.Helper()
	seed := rand.Uint64()
	if v, err := strconv.ParseUint(os.Getenv("KMSFS_SEED"), 10, 64); err == nil {
		seed = v
	}
	t.Logf("KMSFS_SEED=%d", seed)
	return seed
}

// Model is what a store should hold, and a source of random transactions against both.
type Model struct {
	rng  *rand.Rand
	rows map[string]string
}

// NewModel returns a model of an empty store.
func NewModel(seed uint64) *Model {
	return &Model{rng: rand.New(rand.NewPCG(seed, 1)), rows: map[string]string{}}
}

// key draws from a small, skewed space with common prefixes and awkward bytes, so that rows are often overwritten.
func (m *Model) key() string {
	n := 1 + m.rng.IntN(3)
	b := make([]byte, n)
	for i := range b {
		b[i] = []byte{0, 1, 'a', 'b', 'c', 0xfe, 0xff}[m.rng.IntN(7)]
	}
	return string(b)
}

func (m *Model) value() string {
	size := m.rng.IntN(40)
	if m.rng.IntN(50) == 0 {
		size = m.rng.IntN(20_000)
	}
	b := make([]byte, size)
	for i := range b {
		b[i] = byte(m.rng.Uint32())
	}
	return string(b)
}

// Step runs one random transaction, checking all that it reads, and returns the first difference.
func (m *Model) Step(s kv.Store) error {
	rows := maps.Clone(m.rows)
	abort := m.rng.IntN(8) == 0
	errAbort := errors.New("aborted on purpose")
	first := true
	err := s.Update(func(tx kv.Txn) error {
		if !first {
			return errors.New("a transaction without rival was run again")
		}
		first = false
		for range 1 + m.rng.IntN(12) {
			if err := m.operate(tx, rows); err != nil {
				return err
			}
		}
		if abort {
			return errAbort
		}
		return nil
	})
	if abort && errors.Is(err, errAbort) {
		return nil
	}
	if err != nil {
		return err
	}
	m.rows = rows
	return nil
}

func (m *Model) operate(tx kv.Txn, rows map[string]string) error {
	key := m.key()
	switch m.rng.IntN(10) {
	case 0, 1, 2, 3:
		rows[key] = m.value()
		tx.Set([]byte(key), []byte(rows[key]))
	case 4, 5, 6:
		delete(rows, key)
		tx.Delete([]byte(key))
	case 7, 8:
		return compareGet(tx, rows, key)
	default:
		return compareScan(tx, rows, key, m.key())
	}
	return nil
}

// Compare checks that the store holds what the model says, by one full scan and by every Get.
func (m *Model) Compare(s kv.Store) error {
	return s.View(func(r kv.Reader) error { return compareAll(r, m.rows) })
}

func compareAll(r kv.Reader, rows map[string]string) error {
	if err := compareScan(r, rows, "", ""); err != nil {
		return err
	}
	for key := range rows {
		if err := compareGet(r, rows, key); err != nil {
			return err
		}
	}
	return nil
}

func compareGet(r kv.Reader, rows map[string]string, key string) error {
	got, err := r.Get([]byte(key))
	want, ok := rows[key]
	switch {
	case err != nil && !errors.Is(err, kv.ErrNotFound):
		return err
	case ok != (err == nil) || string(got) != want:
		return fmt.Errorf("row %q: got %d bytes, %w; want %d bytes, %t", key, len(got), err, len(want), ok)
	}
	return nil
}

// compareScan scans from start to end; an empty end means to the last row.
func compareScan(r kv.Reader, rows map[string]string, start, end string) error {
	var want []string
	for key := range rows {
		if key >= start && (end == "" || key < end) {
			want = append(want, key)
		}
	}
	slices.Sort(want)
	i := 0
	var limit []byte
	if end != "" {
		limit = []byte(end)
	}
	err := r.Scan([]byte(start), limit, func(key, value []byte) (bool, error) {
		if i >= len(want) || string(key) != want[i] || string(value) != rows[want[i]] {
			return false, fmt.Errorf("scan [%q, %q): row %d is %q with %d bytes; want %q", start, end, i, key, len(value), want)
		}
		i++
		return true, nil
	})
	if err == nil && i != len(want) {
		return fmt.Errorf("scan [%q, %q): %d rows, want %d", start, end, i, len(want))
	}
	return err
}

func testModel(t *testing.T, s kv.Store) {
	m := NewModel(Seed(t))
	type snapshot struct {
		r       kv.Reader
		rows    map[string]string
		release func()
	}
	var open []snapshot
	for i := range 1500 {
		if err := m.Step(s); err != nil {
			t.Fatalf("step %d: %v", i, err)
		}
		switch {
		case i%100 == 0:
			check(t, m.Compare(s))
		case i%100 == 50: // a snapshot that lives for a while
			r, release := held(t, s)
			open = append(open, snapshot{r, m.rows, release})
		case i%100 == 75 && len(open) > 3:
			check(t, compareAll(open[0].r, open[0].rows))
			open[0].release()
			open = open[1:]
		}
	}
	for _, o := range open {
		check(t, compareAll(o.r, o.rows))
		o.release()
	}
	check(t, m.Compare(s))
}

// RunReopen tests that a store keeps its rows from Close to open. open opens the store in dir, which it may create.
func RunReopen(t *testing.T, open func(t *testing.T, dir string) kv.Store) {
	dir := t.TempDir()
	m := NewModel(Seed(t))
	for round := range 8 {
		s := open(t, dir)
		if round%2 == 1 {
			s = deferring{s}
		}
		if err := m.Compare(s); err != nil {
			t.Fatalf("after %d reopenings: %v", round, err)
		}
		for i := range 200 * (round % 3) {
			if err := m.Step(s); err != nil {
				t.Fatalf("round %d, step %d: %v", round, i, err)
			}
		}
		check(t, s.Close())
	}
}

package keystore

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/kmsfs/kmsfs/keystore/audit"
)

// platter is a disk that keeps of a file what was synced, and nothing else, when the power fails.
type platter struct {
	mu     sync.Mutex
	synced map[string][]byte
	stuck  atomic.Pointer[chan struct{}] // not nil: a sync waits until it is closed
}

type plattered struct {
	*os.File
	p *platter
}

func (f plattered) Sync() error {
	if stuck := f.p.stuck.Load(); stuck != nil {
		<-*stuck
	}
	err := f.File.Sync()
	if err != nil {
		return err
	}
	b, err := os.ReadFile(f.Name())
	if err != nil {
		return err
	}
	f.p.mu.Lock()
	defer f.p.mu.Unlock()
	f.p.synced[filepath.Base(f.Name())] = b
	return nil
}

// fail is what a machine finds after the power came back: the files in dir as far as they were synced.
func (p *platter) fail(t *testing.T, dir string) string {
	t.Helper()
	after := t.TempDir()
	p.mu.Lock()
	defer p.mu.Unlock()
	names, err := filepath.Glob(filepath.Join(dir, "*"))
	must(t, err)
	for _, name := range names {
		b := p.synced[filepath.Base(name)]
		if b == nil { // not synced since it got its name: its header is all of it that is sure to be there
			if b, err = os.ReadFile(name); err != nil {
				t.Fatal(err)
			}
			b = b[:min(len(b), 128)]
		}
		must(t, os.WriteFile(filepath.Join(after, filepath.Base(name)), b, 0o600))
	}
	return after
}

// With a strict log, no key leaves before its event would survive the loss of power; otherwise it may.
func TestStrictEventsSurvivePowerLoss(t *testing.T) {
	for _, strict := range []bool{true, false} {
		w := newWorld(t)
		arn := w.key("default")
		_, wrapped := w.generate(w.admin(), arn, payContext)
		must(t, w.Close())
		must(t, w.audit.Close())
		p := &platter{synced: map[string][]byte{}}
		w.openAudit(audit.Options{Settings: audit.Settings{Strict: strict}, Wrap: func(f *os.File) audit.File { return plattered{f, p} }})
		w.open()
		must(t, w.audit.Flush())

		going := make(chan struct{})
		goOn := sync.OnceFunc(func() { close(going) })
		defer goOn()
		if !strict { // nobody waits for this disk
			p.stuck.Store(&going)
		}
		var wg sync.WaitGroup
		for range 8 { // callers at the same time share a sync, and each has it before its key
			wg.Go(func() {
				if _, _, _, err := w.GenerateDataKey(w.admin(), arn, payContext); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		must(t, second(w.Decrypt(w.admin(), wrapped, payContext)))
		wants(t, second(w.Decrypt(as(t, "bob", "s3full"), wrapped, payContext)), CodeAccessDenied, "*")
		dir := p.fail(t, filepath.Join(w.dir, "audit"))
		goOn()

		after, err := audit.Open(dir, w.rows.Derive(nil, "audit").Expose(), audit.Options{Clock: w.clock.Now})
		must(t, err)
		var names []string
		must(t, after.Query(audit.Filter{}, func(e audit.Event) error { names = append(names, e.EventName); return nil }))
		if _, err := after.Verify(); err != nil {
			t.Error(err)
		}
		must(t, after.Close())
		kept := len(names) >= 10 && names[len(names)-1] == "Decrypt" && names[len(names)-2] == "Decrypt" && !slices.Contains(names[len(names)-10:len(names)-2], "Decrypt")
		if kept != strict {
			t.Errorf("strict %v: after the power came back the log has %q", strict, names)
		}
	}
}

// Where the event cannot be made durable, the key does not leave, whatever the call; and nothing that the call would change is lost
// for good without a word: the caller is told.
func TestStrictRefusesWithoutTheEvent(t *testing.T) {
	w := newWorld(t)
	arn := w.key("default")
	_, wrapped := w.generate(w.admin(), arn, payContext)
	must(t, w.Close())
	must(t, w.audit.Close())
	var full bool
	var mu sync.Mutex
	w.openAudit(audit.Options{Settings: audit.Settings{Strict: true}, Wrap: func(f *os.File) audit.File {
		return failing{f, func() bool { mu.Lock(); defer mu.Unlock(); return full }}
	}})
	w.open()
	set := func(to bool) { mu.Lock(); full = to; mu.Unlock() }
	set(true)
	dk, err := w.Decrypt(w.admin(), wrapped, payContext)
	if Code(err) != CodeInternal || dk != nil || !errors.Is(err, errNoSpace) {
		t.Errorf("decrypt: %v %v", dk, err)
	}
	dk, blob, _, err := w.GenerateDataKey(w.admin(), arn, payContext)
	if Code(err) != CodeInternal || dk != nil || blob != nil {
		t.Errorf("generate: %v %v", dk, err)
	}
	set(false)
	must(t, second(w.Decrypt(w.admin(), wrapped, payContext)))
}

var errNoSpace = errors.New("no space left on device")

type failing struct {
	*os.File
	full func() bool
}

func (f failing) WriteAt(b []byte, off int64) (int, error) {
	if f.full() {
		return 0, errNoSpace
	}
	return f.File.WriteAt(b, off)
}

package crash

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// task is what a child process is to do; it gets it as JSON.
type task struct {
	Role    string   `json:"role"` // worker, verify, fill, …
	Mounts  []string `json:"mounts"`
	Dir     string   `json:"dir"` // in each mount
	Journal string   `json:"journal"`
	Seed    uint64   `json:"seed"`
	Worker  int      `json:"worker"`
	Ops     int      `json:"ops"`    // stop after so many; 0: never
	Signal  int      `json:"signal"` // close descriptor 3 when this operation begins
	Max     int64    `json:"max"`    // bytes in a write
	Power   bool     `json:"power"`
	Keys    []string `json:"keys"`  // values of user.s3.sse
	Plain   bool     `json:"plain"` // an ordinary directory, whose files have no encryption to show until it is set
	Note    string   `json:"note,omitempty"`
	Attr    int64    `json:"attr,omitempty"`
	Step    string   `json:"step,omitempty"`
}

// entry is a line of the journal: an operation that begins, or one that ended.
type entry struct {
	Begin *op    `json:"b,omitempty"`
	End   int    `json:"e,omitempty"` // N+1
	Wrong string `json:"wrong,omitempty"`
	Died  string `json:"died,omitempty"`
}

type worker struct {
	task
	rnd     *rand.Rand
	m       *model
	journal *os.File
	files   map[int]*os.File
	n       int
	next    int // handle
	serial  uint64
}

func runWorker(t task) error {
	j, err := os.OpenFile(t.Journal, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	w := &worker{
		task: t, rnd: rand.New(rand.NewPCG(t.Seed, uint64(t.Worker))), m: newModel(t.Power), journal: j,
		files: map[int]*os.File{}, next: 1, serial: (t.Seed&0xffff)<<24 | uint64(t.Worker)<<20,
	}
	for {
		o, ok := w.draw()
		if !ok {
			continue
		}
		if t.Ops > 0 && w.n >= t.Ops {
			return nil
		}
		o.N = w.n
		w.n++
		if err := w.say(entry{Begin: &o}); err != nil {
			return err
		}
		if t.Signal > 0 && o.N == t.Signal {
			_ = os.NewFile(3, "signal").Close()
		}
		wrong, err := w.do(o)
		switch {
		case wrong != "":
			return w.say(entry{Wrong: fmt.Sprintf("operation %d, %s %s: %s", o.N, o.Kind, o.Path, wrong)})
		case err != nil:
			return w.say(entry{Died: fmt.Sprintf("operation %d, %s %s: %v", o.N, o.Kind, o.Path, err)})
		}
		if err := w.say(entry{End: o.N + 1}); err != nil {
			return err
		}
		w.m.apply(o)
	}
}

func (w *worker) say(e entry) error {
	b, err := json.Marshal(e)
	if err == nil {
		_, err = w.journal.Write(append(b, '\n'))
	}
	return err
}

// --- drawing ------------------------------------------------------------------------------------------------------

func pick[K interface{ ~int | ~string }, V any](w *worker, m map[K]V) (K, bool) {
	var none K
	if len(m) == 0 {
		return none, false
	}
	keys := slices.Sorted(maps.Keys(m))
	return keys[w.rnd.IntN(len(keys))], true
}

func (w *worker) name() string {
	dir, _ := pick(w, w.m.dirs)
	return path.Join(dir, fmt.Sprintf("f%d", w.rnd.IntN(25)))
}

func (w *worker) length() int64 {
	switch w.rnd.IntN(4) {
	case 0:
		return 1 + w.rnd.Int64N(100)
	case 1:
		return 1 + w.rnd.Int64N(min(w.Max, 20_000))
	}
	return 1 + w.rnd.Int64N(w.Max)
}

func (w *worker) draw() (op, bool) {
	o := op{Mount: w.rnd.IntN(len(w.Mounts))}
	weights := []struct {
		n    int
		kind string
	}{
		{12, opCreate},
		{6, opOpen},
		{24, opWrite},
		{8, opAppend},
		{4, opResize},
		{3, opTruncate},
		{5, opFsync},
		{16, opClose},
		{9, opRename},
		{3, opLink},
		{5, opUnlink},
		{3, opSetattr},
		{1, opRemattr},
		{3, opRekey},
		{8, opRead},
		{2, opMkdir},
		{1, opRmdir},
		{1, opSyncdir},
	}
	at := w.rnd.IntN(114)
	for _, x := range weights {
		if at -= x.n; at < 0 {
			o.Kind = x.kind
			break
		}
	}
	if w.Max < manyRows && w.rnd.IntN(3) == 0 {
		o.Kind = opSetattr
	}
	switch o.Kind {
	case opMkdir, opRmdir, opCreate, opRename, opLink:
		return w.drawName(o)
	case opSyncdir:
		o.Path, _ = pick(w, w.m.dirs)
		return o, true
	case opWrite, opAppend, opResize, opFsync, opClose:
		return w.drawHandle(o)
	}
	return w.drawFile(o)
}

func (w *worker) drawName(o op) (op, bool) {
	switch o.Kind {
	case opMkdir:
		dir, _ := pick(w, w.m.dirs)
		o.Path = path.Join(dir, fmt.Sprintf("d%d", w.rnd.IntN(6)))
		return o, !w.m.dirs[o.Path] && strings.Count(o.Path, "/") < 4 && w.m.files[o.Path] == nil
	case opRmdir:
		o.Path, _ = pick(w, w.m.dirs)
		for p := range w.m.dirs {
			if strings.HasPrefix(p, o.Path+"/") {
				return o, false
			}
		}
		for p := range w.m.files {
			if strings.HasPrefix(p, o.Path+"/") {
				return o, false
			}
		}
		return o, o.Path != ""
	case opCreate:
		o.Path, o.H = w.name(), w.next
		if w.m.files[o.Path] != nil || len(w.m.handles) >= 8 {
			return o, false
		}
		w.next++
		return o, true
	case opLink:
		o.Path, _ = pick(w, w.m.files)
		o.To = w.name()
		return o, o.Path != "" && w.m.files[o.To] == nil
	}
	if w.rnd.IntN(6) == 0 { // a directory to a name that is free
		o.Path, _ = pick(w, w.m.dirs)
		dir, _ := pick(w, w.m.dirs)
		o.To = path.Join(dir, fmt.Sprintf("d%d", w.rnd.IntN(6)))
		below := o.To == o.Path || strings.HasPrefix(o.To, o.Path+"/")
		return o, o.Path != "" && !below && !w.m.dirs[o.To] && strings.Count(o.To, "/") < 4
	}
	o.Path, _ = pick(w, w.m.files)
	o.To = w.name()
	if over, ok := pick(w, w.m.files); ok && w.rnd.IntN(2) == 0 {
		o.To = over
	}
	return o, o.Path != "" && o.To != o.Path
}

func (w *worker) drawHandle(o op) (op, bool) {
	var ok bool
	o.H, ok = pick(w, w.m.handles)
	if !ok {
		return o, false
	}
	h := w.m.handles[o.H]
	size := int64(len(h.n.content))
	switch o.Kind {
	case opWrite, opAppend:
		if h.read {
			return o, false
		}
		o.Kind, o.Len = opWrite, w.length()
		if h.append {
			o.Kind, o.Off = opAppend, size
		} else if w.rnd.IntN(3) == 0 {
			o.Off = size
		} else {
			o.Off = w.rnd.Int64N(size + 5000)
			if w.rnd.IntN(2) == 0 {
				o.Off &^= 4095
			}
		}
		w.serial++
		o.ID = w.serial
		return o, o.Off+o.Len <= 4*w.Max
	case opResize:
		if h.read {
			return o, false
		}
		o.Len = w.rnd.Int64N(size + 1 + size/8 + 1000)
	}
	return o, true
}

func (w *worker) drawFile(o op) (op, bool) {
	var ok bool
	if o.Path, ok = pick(w, w.m.files); !ok {
		return o, false
	}
	n := w.m.files[o.Path]
	switch o.Kind {
	case opOpen:
		o.Flags = []string{"", "", "t", "a", "r"}[w.rnd.IntN(5)]
		o.H = w.next
		if len(w.m.handles) >= 8 {
			return o, false
		}
		w.next++
	case opTruncate:
		o.Len = w.rnd.Int64N(int64(len(n.content)) + 3000)
	case opSetattr:
		size := w.rnd.IntN(300)
		if w.Max < manyRows {
			size = w.rnd.IntN(40_000)
		}
		o.Name, o.Value = fmt.Sprintf("user.a%d", w.rnd.IntN(3)), fmt.Sprintf("%d-%d", size, w.rnd.IntN(1000))
	case opRemattr:
		if o.Name, ok = pick(w, n.attrs); !ok || o.Name == sseAttr {
			return o, false
		}
	case opRekey:
		o.Name, o.Value = sseAttr, w.Keys[w.rnd.IntN(len(w.Keys))]
	}
	return o, true
}

const sseAttr = "user.s3.sse"

// manyRows is the length of writes below which a worker sets many large attributes: they fill the redo log and the tables in memory,
// which rotate within a round.
const manyRows = 1000

// attrValue is the value of an attribute, of which journal and model have the short form "length-number".
func attrValue(short string) []byte {
	var size int
	_, _ = fmt.Sscanf(short, "%d-", &size)
	return []byte(short + "|" + strings.Repeat("v", size))
}

// shortValue gives the short form back, if all of the value is there.
func shortValue(v []byte) string {
	short, _, _ := strings.Cut(string(v), "|")
	if !bytes.Equal(attrValue(short), v) {
		return fmt.Sprintf("damaged: %d bytes, %.60q", len(v), v)
	}
	return short
}

// --- doing --------------------------------------------------------------------------------------------------------

func (w *worker) path(mount int, p string) string { return filepath.Join(w.Mounts[mount], w.Dir, p) }

// do does one operation. wrong says that the file system is not as it should be.
func (w *worker) do(o op) (wrong string, err error) {
	p := w.path(o.Mount, o.Path)
	switch o.Kind {
	case opMkdir:
		return "", os.Mkdir(p, 0o755)
	case opRmdir:
		return "", unix.Rmdir(p)
	case opCreate:
		w.files[o.H], err = os.OpenFile(p, os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o644)
	case opOpen:
		flags := os.O_RDWR
		if strings.Contains(o.Flags, "r") {
			flags = os.O_RDONLY
		}
		if strings.Contains(o.Flags, "t") {
			flags |= os.O_TRUNC
		}
		if strings.Contains(o.Flags, "a") {
			flags |= os.O_APPEND
		}
		w.files[o.H], err = os.OpenFile(p, flags, 0)
	case opWrite, opAppend:
		buf := make([]byte, o.Len)
		fill(buf, o.ID, o.Off)
		f := w.files[o.H]
		if o.Kind == opAppend {
			_, err = f.Write(buf)
		} else {
			_, err = f.WriteAt(buf, o.Off)
		}
	case opResize:
		err = w.files[o.H].Truncate(o.Len)
	case opTruncate:
		err = os.Truncate(p, o.Len)
	case opFsync:
		err = w.files[o.H].Sync()
	case opClose:
		err = w.files[o.H].Close()
		delete(w.files, o.H)
	case opRename:
		err = unix.Rename(p, w.path(o.Mount, o.To))
	case opLink:
		err = unix.Link(p, w.path(o.Mount, o.To))
	case opUnlink:
		err = unix.Unlink(p)
	case opSetattr:
		err = unix.Setxattr(p, o.Name, attrValue(o.Value), 0)
	case opRekey:
		err = unix.Setxattr(p, o.Name, []byte(o.Value), 0)
	case opRemattr:
		err = unix.Removexattr(p, o.Name)
	case opSyncdir:
		err = syncDir(p)
	case opRead:
		b, err := os.ReadFile(p)
		if err != nil {
			return "", err
		}
		return differs(b, w.m.files[o.Path].content), nil
	}
	return "", err
}

func syncDir(p string) error {
	d, err := os.Open(p)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// differs says where two contents differ, "" if they do not.
func differs(got, want []byte) string {
	for i := range min(len(got), len(want)) {
		if got[i] != want[i] {
			return fmt.Sprintf("byte %d of %d: got %s, want %s", i, len(got), describe(got, i), describe(want, i))
		}
	}
	if len(got) != len(want) {
		return fmt.Sprintf("%d bytes, want %d", len(got), len(want))
	}
	return ""
}

// readJournal gives the operations of a worker: those that were acknowledged, and the one under way.
func readJournal(name string) (done []op, underWay *op, wrong, died string, err error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, nil, "", "", err
	}
	defer f.Close()
	sc := bufio.NewScanner(f)
	sc.Buffer(nil, 1<<20)
	for sc.Scan() {
		var e entry
		if json.Unmarshal(sc.Bytes(), &e) != nil {
			continue // the last line, if the worker itself was killed
		}
		switch {
		case e.Begin != nil:
			underWay = e.Begin
		case e.End > 0:
			done = append(done, *underWay)
			underWay = nil
		case e.Wrong != "":
			wrong = e.Wrong
		case e.Died != "":
			died = e.Died
		}
	}
	return done, underWay, wrong, died, sc.Err()
}

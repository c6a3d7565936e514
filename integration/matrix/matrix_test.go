package matrix

import (
	"encoding/gob"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/kmsfs/kmsfs/mount"
)

// childEnv makes the test binary a child that executes operations.
const childEnv = "KMSFS_MATRIX_CHILD"

// TestMain is also the door of the children.
func TestMain(m *testing.M) {
	if os.Getenv(childEnv) != "" {
		if err := child(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// task is one operation of one child.
type task struct {
	Op int
	At place
}

// child executes what it is told, in order, and answers with the errnos.
func child() error {
	unix.Umask(0)
	var todo []task
	if err := gob.NewDecoder(os.Stdin).Decode(&todo); err != nil {
		return err
	}
	table := ops()
	answers := make([]uint32, len(todo))
	for i, t := range todo {
		err := table[t.Op].do(t.At)
		var errno syscall.Errno
		if err != nil && !errors.As(err, &errno) {
			errno = syscall.EDOM // cannot be mistaken for an answer of the program
			fmt.Fprintf(os.Stderr, "%s at %s: %v\n", table[t.Op].name, t.At.Name, err)
		}
		answers[i] = uint32(errno)
	}
	return gob.NewEncoder(os.Stdout).Encode(answers)
}

// cell is one case: a task and what the model expects.
type cell struct {
	task
	kind string
	want syscall.Errno
	ino  mount.Ino // the fixture's; 0 for none
	was  mount.Attr
}

// TestMatrix is every principal times every operation times every state of the key.
func TestMatrix(t *testing.T) {
	w := newWorld(t)
	w.people()
	w.keysOf()
	cells := make([][]cell, len(everyone))
	table := ops()
	for i := range everyone {
		for o := range table {
			cells[i] = append(cells[i], w.prepare(&everyone[i], o, &table[o])...)
		}
	}
	w.lock()
	for i := range cells {
		for j := range cells[i] {
			if c := &cells[i][j]; c.ino != 0 {
				c.was = w.attr(c.ino)
			}
		}
	}
	var group sync.WaitGroup
	for i := range everyone {
		root := w.mount(everyone[i].name)
		for j := range cells[i] {
			cells[i][j].At.Root, cells[i][j].At.Target = root, w.arns["m-enabled"]
		}
		group.Go(func() { w.compare(&everyone[i], cells[i], table) })
	}
	group.Wait()
	n := 0
	for i := range cells {
		n += len(cells[i])
	}
	t.Logf("%d principals, %d operations, %d kinds of keys: %d cases", len(everyone), len(table), len(kinds), n)
}

// prepare makes the fixtures of one operation of one principal, and its cases.
func (w *world) prepare(p *principal, index int, o *op) []cell {
	if strings.HasPrefix(o.name, "bucket-") || strings.HasPrefix(o.name, "root-") {
		k := kind{name: "x-" + p.name + "-" + o.name}
		w.bucket(k.name, "")
		if strings.HasPrefix(o.name, "bucket-policy") {
			w.setPolicy(k.name, `{"Version":"2012-10-17","Statement":{"Effect":"Allow","Principal":"*","Action":"s3:GetObject","Resource":"arn:aws:s3:::`+k.name+`/never"}}`)
		}
		a := asking{p: p, k: &k, own: o.name}
		return []cell{{task: task{index, place{Bucket: k.name}}, kind: k.name, want: o.want(&a)}}
	}
	dir := o.dir
	if dir == "" {
		dir = "p"
	}
	var out []cell
	for i := range kinds {
		k := &kinds[i]
		c := cell{task: task{index, place{Bucket: k.name, Dir: dir, Name: o.name + "." + p.name}}, kind: k.name}
		a := asking{p: p, k: k, own: o.name, dir: k.name + "/" + dir + "/"}
		a.key = a.dir + c.At.Name
		c.ino = w.make(k.name, dir, c.At.Name, o.made)
		if p.only == o.name {
			w.narrow(k, p, "arn:aws:s3:::"+a.key)
		}
		c.want = o.want(&a)
		out = append(out, c)
	}
	return out
}

// compare runs a principal's operations in a child and looks at what it met, and at what refusals left.
func (w *world) compare(p *principal, cells []cell, table []op) {
	todo := make([]task, len(cells))
	for i := range cells {
		todo[i] = cells[i].task
	}
	got, err := runChild(w.t, todo)
	if err != nil {
		w.t.Errorf("%s: %v", p.name, err)
		return
	}
	wrong := 0
	for i, c := range cells {
		errno := syscall.Errno(got[i])
		if errno != c.want {
			wrong++
			w.t.Errorf("%s, %s, %s: %s, the rules say %s", p.name, table[c.Op].name, c.kind, name(errno), name(c.want))
		}
		if errno == 0 || c.ino == 0 {
			continue
		}
		if now := w.attr(c.ino); now != c.was {
			w.t.Errorf("%s, %s, %s: refused by %s, and yet the file changed:\n%+v\n%+v", p.name, table[c.Op].name, c.kind, name(errno), c.was, now)
		}
	}
	if wrong > 0 {
		w.t.Logf("%s: %d of %d wrong", p.name, wrong, len(cells))
	}
}

func name(e syscall.Errno) string {
	if e == 0 {
		return "success"
	}
	return unix.ErrnoName(e)
}

func runChild(t *testing.T, todo []task) ([]uint32, error) {
	runtime.LockOSThread() // a thread of the mounts may end, and with the thread that started it the child would
	defer runtime.UnlockOSThread()
	cmd := exec.CommandContext(t.Context(), "/proc/self/exe")
	cmd.Args[0] = os.Args[0]
	cmd.Env = append(os.Environ(), childEnv+"=1", "GOMAXPROCS=1")
	cmd.Dir = "/"
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	err = errors.Join(gob.NewEncoder(in).Encode(todo), in.Close())
	var got []uint32
	if err == nil {
		err = gob.NewDecoder(out).Decode(&got)
	}
	if err = errors.Join(err, cmd.Wait()); err == nil && len(got) != len(todo) {
		err = fmt.Errorf("%d answers to %d tasks", len(got), len(todo))
	}
	return got, err
}

// TestTable keeps the table honest: every row has a name of its own and something to say.
func TestTable(t *testing.T) {
	var names []string
	for _, o := range ops() {
		if o.do == nil || o.want == nil || slices.Contains(names, o.name) {
			t.Errorf("row %q", o.name)
		}
		names = append(names, o.name)
	}
}

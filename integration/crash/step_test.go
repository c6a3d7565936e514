package crash

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// The steps of a small workload of two principals, each of which a child does. What it leaves is looked at by later ones: where a step was
// refused there may be what was there before it, or what it wanted, or of content some of each, but never an I/O error.

const (
	stepBase  = 200_000 // bytes of the file that is there before
	stepLarge = 700_000
)

// stepNames are in their order.
var stepNames = []string{
	"small", "small-synced", "large", "large-synced", "overwrite", "append", "truncate", "grow", "punch", "attribute", "no-attribute", "mkdir",
	"rename", "rename-over", "link", "symlink", "chmod", "rekey", "read", "rewrite", "unlink",
}

// result is what became of a step.
type result struct {
	Call  string `json:"call"` // that failed
	Errno int    `json:"errno"`
	Error string `json:"error"`
}

func (x result) String() string {
	if x.Call == "" {
		return "done"
	}
	return fmt.Sprintf("%s: %s", x.Call, x.Error)
}

// runStep does one step on files named after the task's note, and reports it. Role "prepare" makes what the steps need.
func runStep(t task) error {
	s := stepper{task: t}
	call, err := s.run(t.Step)
	var x result
	if err != nil {
		x = result{Call: call, Error: err.Error(), Errno: int(syscall.EIO)}
		var errno syscall.Errno
		if errors.As(err, &errno) {
			x.Errno = int(errno)
		}
	}
	return json.NewEncoder(os.Stdout).Encode(x)
}

type stepper struct{ task }

func (s *stepper) path(mount int, name string) string {
	return filepath.Join(s.Mounts[mount], s.Dir, s.Note+"-"+name)
}

// id is the number of a write: of what was there before, or of the step.
func (s *stepper) id(what string) uint64 {
	h := s.Seed << 8
	for i, n := range append([]string{"base"}, stepNames...) {
		if n == what {
			return h | uint64(i)
		}
	}
	return h | 0xff
}

func content(id uint64, off, size int64) []byte {
	b := make([]byte, size)
	fill(b, id, off)
	return b
}

// put writes a new file, or over an old one.
func (s *stepper) put(path string, flags int, b []byte, off int64, sync bool) (call string, err error) {
	f, err := os.OpenFile(path, flags, 0o644)
	if err != nil {
		return "open", err
	}
	if flags&os.O_APPEND != 0 {
		_, err = f.Write(b)
	} else {
		_, err = f.WriteAt(b, off)
	}
	if err != nil {
		_ = f.Close()
		return "write", err
	}
	if sync {
		if err := f.Sync(); err != nil {
			_ = f.Close()
			return "fsync", err
		}
	}
	return "close", f.Close()
}

const made = os.O_CREATE | os.O_EXCL | os.O_WRONLY

func (s *stepper) run(step string) (call string, err error) {
	base := s.path(0, "base-"+step)
	switch step {
	case "small", "small-synced":
		return s.put(s.path(0, step), made, content(s.id(step), 0, 700), 0, step != "small")
	case "large", "large-synced":
		return s.put(s.path(1, step), made, content(s.id(step), 0, stepLarge), 0, step != "large")
	case "overwrite":
		return s.put(base, os.O_WRONLY, content(s.id(step), 50_000, 100_000), 50_000, true)
	case "append":
		return s.put(base, os.O_WRONLY|os.O_APPEND, content(s.id(step), stepBase, 30_000), 0, true)
	case "rewrite":
		return s.put(base, os.O_WRONLY|os.O_TRUNC, content(s.id(step), 0, 90_000), 0, false)
	case "truncate":
		return "truncate", os.Truncate(base, stepBase/3)
	case "grow":
		return "truncate", os.Truncate(base, 2*stepBase)
	case "punch":
		f, err := os.OpenFile(base, os.O_RDWR, 0)
		if err != nil {
			return "open", err
		}
		err = unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, 8192, 40_000)
		return "fallocate", errors.Join(err, f.Close())
	case "attribute":
		return "setxattr", unix.Setxattr(base, "user.step", []byte(strings.Repeat("s", 40_000)), 0)
	case "no-attribute":
		return "removexattr", unix.Removexattr(base, "user.base")
	case "mkdir":
		return "mkdir", os.Mkdir(s.path(1, step), 0o755)
	case "rename":
		return "rename", unix.Rename(base, s.path(0, step))
	case "rename-over":
		return "rename", unix.Rename(base, s.path(0, "base-read"))
	case "link":
		return "link", unix.Link(base, s.path(0, step))
	case "symlink":
		return "symlink", unix.Symlink("anywhere", s.path(0, step))
	case "chmod":
		return "chmod", os.Chmod(base, 0o600)
	case "rekey":
		return "setxattr", unix.Setxattr(base, sseAttr, []byte(s.Keys[1]), 0)
	case "read":
		if p := s.look(1, "base-read", true, "base", "rename-over"); p != "" {
			return "read", errors.New(p)
		}
		return "", nil
	case "unlink":
		return "unlink", unix.Unlink(base)
	}
	return "step", fmt.Errorf("unknown step %q", step)
}

// runPrepare makes the files that the steps change.
func runPrepare(t task) error {
	s := stepper{task: t}
	for i, step := range stepNames {
		p := s.path(0, "base-"+step)
		if call, err := s.put(p, made, content(s.id("base"), 0, stepBase), 0, i == len(stepNames)-1); err != nil {
			return fmt.Errorf("%s of %s: %w", call, p, err)
		}
		if err := unix.Setxattr(p, "user.base", []byte("base"), 0); err != nil {
			return err
		}
	}
	return nil
}

// look reads a file whole and says what is wrong with it: if it is not there though it must be, or a byte is of none of the writes.
func (s *stepper) look(mount int, name string, must bool, writes ...string) string {
	b, err := os.ReadFile(s.path(mount, name))
	if errors.Is(err, os.ErrNotExist) && !must {
		return ""
	}
	if err != nil {
		return err.Error()
	}
	var all [][]byte
	for _, w := range writes {
		all = append(all, content(s.id(w), 0, int64(len(b))))
	}
	all = append(all, make([]byte, len(b))) // a hole
	if len(writes) == 1 || len(writes) == 2 && writes[1] == "rename-over" {
		all = all[:1]
	}
next:
	for i := range b {
		for _, want := range all {
			if b[i] == want[i] {
				continue next
			}
		}
		return fmt.Sprintf("%s: byte %d of %d is of none of the writes %v: %s", name, i, len(b), writes, describe(b, i))
	}
	return ""
}

// runInspect looks at what steps left; the journal has what became of each.
func runInspect(t task) error {
	s := stepper{task: t}
	var results map[string]result
	b, err := os.ReadFile(t.Journal)
	if err == nil {
		err = json.Unmarshal(b, &results)
	}
	if err != nil {
		return err
	}
	for _, step := range stepNames {
		x, tried := results[step]
		if p := s.inspect(step, tried, tried && x.Call == ""); p != "" {
			return fmt.Errorf("%s, step %s (%v): %s", s.Note, step, x, p)
		}
	}
	return nil
}

// whole wants a file to have exactly this content.
func (s *stepper) whole(name string, want []byte) string {
	b, err := os.ReadFile(s.path(1, name))
	if err != nil {
		return err.Error()
	}
	return differs(b, want)
}

func (s *stepper) exists(name string) bool {
	_, err := os.Lstat(s.path(0, name))
	return err == nil
}

// inspect says what is wrong with what a step left. A step that was refused, or was not tried, leaves what was there, or all or some of what
// it wanted.
func (s *stepper) inspect(step string, tried, done bool) string {
	old := content(s.id("base"), 0, stepBase)
	base := "base-" + step
	switch step {
	case "small", "small-synced", "large", "large-synced":
		size := int64(700)
		if strings.HasPrefix(step, "large") {
			size = stepLarge
		}
		if done {
			return s.whole(step, content(s.id(step), 0, size))
		}
		return s.look(0, step, false, step)
	case "overwrite":
		if done {
			copy(old[50_000:], content(s.id(step), 50_000, 100_000))
			return s.whole(base, old)
		}
		return s.look(0, base, true, "base", step, "")
	case "append":
		if done {
			return s.whole(base, append(old, content(s.id(step), stepBase, 30_000)...))
		}
		return s.look(0, base, true, "base", step, "")
	case "rewrite":
		if done {
			return s.whole(base, content(s.id(step), 0, 90_000))
		}
		return s.look(0, base, true, "base", step, "")
	case "truncate":
		if done {
			return s.whole(base, old[:stepBase/3])
		}
		return s.look(0, base, true, "base")
	case "grow":
		if done {
			return s.whole(base, append(old, make([]byte, stepBase)...))
		}
		return s.look(0, base, true, "base", step, "")
	case "punch":
		if done {
			clear(old[8192:48_192])
			return s.whole(base, old)
		}
		return s.look(0, base, true, "base", step, "")
	case "rename", "rename-over", "unlink":
		return s.inspectNames(step, base, tried, done, old)
	case "mkdir", "symlink":
		if done != s.exists(step) && done {
			return "it is gone"
		}
	case "link":
		if p := s.whole(base, old); p != "" {
			return p
		}
		if done {
			return s.whole(step, old)
		}
	case "read": // under rename-over
	default:
		if n, err := unix.Getxattr(s.path(1, base), "user.step", nil); step == "attribute" && done && n != 40_000 {
			return fmt.Sprintf("the attribute has %d bytes: %v", n, err)
		}
		return s.whole(base, old)
	}
	return ""
}

func (s *stepper) inspectNames(step, base string, tried, done bool, old []byte) string {
	there := s.exists(base)
	switch {
	case done && there:
		return "the old name is there"
	case !done && !there && !tried:
		return "it is gone"
	}
	switch {
	case there:
		return s.whole(base, old)
	case step == "rename":
		return s.whole(step, old)
	case step == "rename-over":
		return s.whole("base-read", old)
	}
	return ""
}

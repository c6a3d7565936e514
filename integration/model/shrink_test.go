package model

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
)

const shrinkFor = 60 * time.Second

// shrink looks for a short history that shows the same kind of failure, by replaying parts of it in fresh buckets, and prints it.
// What depends on moments may not come back.
func shrink(x *run, seed uint64, sort string) {
	r := x.rig
	began, tries := time.Now(), 0
	fails := func(ops []*op) error {
		if time.Since(began) > shrinkFor {
			return nil
		}
		tries++
		y, err := freshRun(r, fmt.Sprintf("try%d", tries), seed)
		for _, o := range ops {
			if err != nil {
				break
			}
			if o.Kind == opRestart {
				continue
			}
			copied := *o
			err = y.step(&copied)
		}
		var m *mismatch
		if errors.As(err, &m) {
			if m.sort() != sort {
				return nil
			}
			return err
		}
		if err != nil {
			r.t.Logf("while shrinking: %v", err)
			began = time.Time{}
		}
		return nil
	}
	ops := slices.Clone(x.ops)
	var last error
	for n := 16; last == nil && n/4 < len(ops); n *= 4 { // a short end may be enough
		if last = fails(ops[max(len(ops)-n, 0):]); last != nil {
			ops = ops[max(len(ops)-n, 0):]
		}
	}
	if last == nil {
		r.t.Log("replaying the history does not show it again")
		return
	}
	for size := len(ops) / 2; size > 0; {
		cut := false
		for at := 0; at+size <= len(ops); {
			part := slices.Concat(ops[:at], ops[at+size:])
			if err := fails(part); err != nil {
				ops, last, cut = part, err, true
			} else {
				at += size
			}
		}
		if !cut || size > len(ops) {
			size /= 2
		}
	}
	r.t.Logf("%d replays leave %d operations, which end in: %v\n%s", tries, len(ops), last, history(ops))
}

// freshRun begins a history without the handles of the one before.
func freshRun(r *rig, name string, seed uint64) (*run, error) {
	for m := range mounts {
		if err := r.unmount(m); err != nil {
			return nil, err
		}
		r.mount(m)
	}
	return newRun(r, name, seed)
}

// sort is what a mismatch is about, without its numbers.
func (m *mismatch) sort() string {
	text, _, _ := strings.Cut(m.text, "\n")
	if _, after, ok := strings.Cut(text, "shows for "); ok {
		_, text, _ = strings.Cut(after, ": ")
	}
	word, _, _ := strings.Cut(text, " ")
	return m.op.Kind.String() + " " + word
}

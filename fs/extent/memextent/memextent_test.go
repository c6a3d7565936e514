package memextent_test

import (
	"errors"
	"testing"

	"github.com/kmsfs/kmsfs/fs/extent"
	"github.com/kmsfs/kmsfs/fs/extent/extenttest"
	"github.com/kmsfs/kmsfs/fs/extent/memextent"
)

func TestConformance(t *testing.T) {
	keep := func(extent.Ref) bool { return true }
	extenttest.Run(t, extenttest.Driver{
		Open: func(*testing.T) extent.Store { return memextent.New() },
		Reopen: func(t *testing.T, s extent.Store) extent.Store {
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
			s.(*memextent.Store).PowerLoss(keep)
			return s
		},
		Crash: func(_ *testing.T, s extent.Store) extent.Store {
			s.(*memextent.Store).PowerLoss(keep)
			return s
		},
		MaxExtent: 200_000,
	})
}

func TestPowerLoss(t *testing.T) {
	s := memextent.New()
	var refs []extent.Ref
	for i := range 3 {
		ref, err := s.Append([]byte{byte(i)})
		if err != nil {
			t.Fatal(err)
		}
		refs = append(refs, ref)
		if i == 0 {
			if err := s.Sync(); err != nil {
				t.Fatal(err)
			}
		}
	}
	s.PowerLoss(func(r extent.Ref) bool { return r == refs[2] })
	for i, want := range []error{nil, extent.ErrMissing, nil} {
		if err := s.ReadAt(refs[i], make([]byte, 1), 0); !errors.Is(err, want) {
			t.Errorf("extent %d: %v, want %v", i, err, want)
		}
	}
	again, err := s.Append([]byte{9})
	if err != nil || again.Offset <= refs[2].Offset {
		t.Errorf("append after power loss: %v, %v", again, err)
	}
}

func TestLimit(t *testing.T) {
	s := memextent.NewLimited(2 * extent.Align)
	ref, err := s.Append(make([]byte, 5000))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Append([]byte{1}); !errors.Is(err, extent.ErrNoSpace) {
		t.Errorf("append to a full store: %v, want ErrNoSpace", err)
	}
	if err := s.Free(ref); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Append([]byte{1}); err != nil {
		t.Errorf("append after free: %v", err)
	}
}

func TestFaults(t *testing.T) {
	for _, f := range []extenttest.Fault{extenttest.NotApplied, extenttest.Applied} {
		inner := memextent.New()
		s := extenttest.WithFaults(inner, extenttest.Once(extenttest.Append, 1, f))
		for i := range 3 {
			ref, err := s.Append([]byte{byte(i)})
			if failed := errors.Is(err, extenttest.ErrInjected); failed != (i == 1) || failed && ref != (extent.Ref{}) {
				t.Errorf("fault %d, append %d: %v, %v", f, i, ref, err)
			}
		}
		u, err := inner.Usage()
		if err != nil {
			t.Fatal(err)
		}
		want := int64(2 * extent.Align)
		if f == extenttest.Applied {
			want = 3 * extent.Align
		}
		if u.Stored != want {
			t.Errorf("fault %d: %d bytes stored, want %d", f, u.Stored, want)
		}
	}
}

package extent

import (
	"slices"
	"testing"
)

func TestBlocks(t *testing.T) {
	var b Blocks
	for _, r := range []Ref{{1, 4096, 5000}, {1, 40960, 4096}, {3, 4096, 1}} {
		if b.Add(r) {
			t.Fatalf("%v overlaps", r)
		}
	}
	if b.Bytes() != 4*Align {
		t.Fatalf("%d bytes", b.Bytes())
	}
	if !b.Add(Ref{1, 8192, 10}) || b.Add(Ref{0, 0, 1}) || b.Add(Ref{9, 1 << 61, 1}) {
		t.Fatal("an overlap, and no more, is an overlap")
	}
	var got []Ref
	collect := func(r Ref) error {
		got = append(got, r)
		return nil
	}
	for _, r := range []Range{{1, 4096, 65536}, {2, 4096, 4096}, {3, 4096, 4096}} {
		if err := b.Gaps(r, collect); err != nil {
			t.Fatal(err)
		}
	}
	want := []Ref{{1, 12288, 28672}, {1, 45056, 24576}, {2, 4096, 4096}}
	if !slices.Equal(got, want) {
		t.Fatalf("%v, want %v", got, want)
	}
}

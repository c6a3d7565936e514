package keystore

import (
	"bytes"
	"errors"
	"testing"

	"github.com/kmsfs/kmsfs/crypto"
	"github.com/kmsfs/kmsfs/crypto/wrap"
)

func TestLocalWrapping(t *testing.T) {
	bucketKey, dk := crypto.NewDataKey(), crypto.NewDataKey()
	outer := crypto.WrappedKey("wrapped by KMS")
	w, err := WrapLocal(bucketKey, outer, dk)
	if err != nil {
		t.Fatal(err)
	}
	gotOuter, inner, ok := SplitLocal(w)
	if !ok || !bytes.Equal(gotOuter, outer) {
		t.Fatalf("outer: %q %v", gotOuter, ok)
	}
	got, err := UnwrapLocal(bucketKey, inner)
	if err != nil || !got.Equal(dk) {
		t.Fatalf("another data key: %v", err)
	}
	if _, err := UnwrapLocal(crypto.NewDataKey(), inner); !errors.Is(err, wrap.ErrInvalidCiphertext) {
		t.Errorf("a strange bucket key: %v", err)
	}
	for i := range inner {
		bad := bytes.Clone(inner)
		bad[i] ^= 1
		if _, err := UnwrapLocal(bucketKey, bad); err == nil {
			t.Fatalf("byte %d may be changed", i)
		}
	}
	moved, err := Rewrap(w, func(o crypto.WrappedKey) (crypto.WrappedKey, error) { return append(bytes.Clone(o), " again"...), nil })
	if err != nil {
		t.Fatal(err)
	}
	if o, in, ok := SplitLocal(moved); !ok || string(o) != "wrapped by KMS again" || !bytes.Equal(in, inner) {
		t.Errorf("moved: %q %v", o, ok)
	}
	plain, err := Rewrap(outer, func(o crypto.WrappedKey) (crypto.WrappedKey, error) { return o, nil })
	if err != nil || !bytes.Equal(plain, outer) {
		t.Errorf("without a bucket key: %q %v", plain, err)
	}
}

func FuzzSplitLocal(f *testing.F) {
	f.Add([]byte("KB1\x00something"))
	f.Add([]byte("KL1\x00\x00\x03abcdef"))
	f.Add([]byte("KL1\x00\xff\xffabc"))
	f.Fuzz(func(t *testing.T, b []byte) {
		outer, inner, ok := SplitLocal(b)
		if !ok {
			if !bytes.Equal(outer, b) {
				t.Fatal("what is not split is changed")
			}
			return
		}
		if !bytes.Equal(joinLocal(outer, inner), b) {
			t.Fatal("not joined again")
		}
	})
}

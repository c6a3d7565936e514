package integration

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
)

// TestIndependentVectors compares the vectors that pin each package's format with what vectors/generate.py, an implementation in
// Python over OpenSSL, computed from the same inputs. That the code writes those bytes is what the packages' own tests say.
func TestIndependentVectors(t *testing.T) {
	var independent map[string]json.RawMessage
	read(t, "integration/vectors/vectors.json", &independent)
	if len(independent) < 10 {
		t.Errorf("only %d formats", len(independent))
	}
	for name, raw := range independent {
		var want any
		if err := json.Unmarshal(raw, &want); err != nil {
			t.Fatal(err)
		}
		var got any
		switch {
		case strings.HasSuffix(name, ".hex"):
			b, err := os.ReadFile(filepath.Join("..", name))
			if err != nil {
				t.Error(err)
				continue
			}
			got = string(bytes.Join(bytes.Fields(b), nil))
		case strings.HasPrefix(name, "fs/meta/"): // the hashes alone: what is encoded there has no cryptography
			all := map[string]any{}
			read(t, name, &all)
			some := map[string]any{}
			for k := range want.(map[string]any) {
				some[k] = all[k]
			}
			got = some
		case strings.HasPrefix(name, "keystore/rootkey/"):
			got = header(t, name)
		default:
			read(t, name, &got)
		}
		if !reflect.DeepEqual(got, want) {
			t.Errorf("%s:\n got %v\nwant %v", name, got, want)
		}
	}
}

// header is what a stored root key header has of the vectors' fields.
func header(t *testing.T, name string) any {
	t.Helper()
	var h struct {
		MAC   string
		Slots []struct{ Wrapped string }
	}
	read(t, name, &h)
	root, err := os.ReadFile(filepath.Join("..", filepath.Dir(name), "root-key.hex"))
	if err != nil {
		t.Fatal(err)
	}
	var slots []any
	for _, s := range h.Slots {
		slots = append(slots, s.Wrapped)
	}
	return map[string]any{"mac": h.MAC, "slots": slots, "root": strings.TrimSpace(string(root))}
}

func read(t *testing.T, name string, into any) {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("..", name))
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(b, into); err != nil {
		t.Fatalf("%s: %v", name, err)
	}
}

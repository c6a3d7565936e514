package policy

import (
	"os"
	"testing"
)

func runFile(t *testing.T, name string, wantVectors, wantGrants int) {
	t.Helper()
	f, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	vs, err := LoadVectors(f)
	if err != nil {
		t.Fatal(err)
	}
	if len(vs.Vectors) < wantVectors || len(vs.GrantVectors) < wantGrants {
		t.Fatalf("%d vectors and %d grant vectors, want at least %d and %d", len(vs.Vectors), len(vs.GrantVectors), wantVectors, wantGrants)
	}
	results, err := vs.Run()
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range results {
		t.Run(r.ID, func(t *testing.T) {
			if !r.OK {
				t.Errorf("%s: got %s, want %s (%s): %s", r.ID, r.Got, r.Expect, r.Why, r.Reason)
			}
		})
	}
}

func TestVectors(t *testing.T) { runFile(t, "testdata/policy.json", 55, 18) }

// Cases of S3, boundaries, session policies and refused documents in the same form.
func TestMoreVectors(t *testing.T) { runFile(t, "testdata/s3.json", 34, 0) }

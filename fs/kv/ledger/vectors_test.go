package ledger

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"flag"
	"os"
	"testing"

	"github.com/kmsfs/kmsfs/crypto"
	"github.com/kmsfs/kmsfs/fs/kv"
	"github.com/kmsfs/kmsfs/fs/kv/memkv"
)

var update = flag.Bool("update", false, "write the vectors anew")

const vectorsFile = "testdata/vectors.json"

// vectors is a small ledger, all bytes in hex: its rows as they are before they are sealed.
type vectors struct {
	Key  string
	Rows [][2]string
}

func vectorKey(t *testing.T) *crypto.DataKey {
	t.Helper()
	k, err := crypto.DataKeyFromBytes(bytes.Repeat([]byte{1}, crypto.KeySize))
	check(t, err)
	return k
}

func vectorLedger(t *testing.T, store kv.Store) {
	t.Helper()
	l := open(t, store, vectorKey(t))
	put(t, l, 'U', "alice", `{"name":"alice"}`)
	check(t, l.Update(func(tx *Tx) error {
		tx.Put('U', "bob", []byte("x"))
		tx.Put('P', "", nil)
		return nil
	}))
}

// TestVectors opens the stored rows, and writes the same ones.
func TestVectors(t *testing.T) {
	fresh := memkv.New()
	vectorLedger(t, fresh)
	v := vectors{Key: hex.EncodeToString(vectorKey(t).Expose())}
	check(t, fresh.View(func(r kv.Reader) error {
		return r.Scan(nil, nil, func(key, value []byte) (bool, error) {
			v.Rows = append(v.Rows, [2]string{hex.EncodeToString(key), hex.EncodeToString(value)})
			return true, nil
		})
	}))
	b, err := json.MarshalIndent(v, "", "  ")
	check(t, err)
	b = append(b, '\n')
	if *update {
		check(t, os.WriteFile(vectorsFile, b, 0o644))
	}
	stored, err := os.ReadFile(vectorsFile)
	check(t, err)
	if !bytes.Equal(stored, b) {
		t.Fatalf("the rows written now differ from %s", vectorsFile)
	}
	var read vectors
	check(t, json.Unmarshal(stored, &read))
	store := memkv.New()
	check(t, store.Update(func(tx kv.Txn) error {
		for _, r := range read.Rows {
			key, err := hex.DecodeString(r[0])
			check(t, err)
			value, err := hex.DecodeString(r[1])
			check(t, err)
			tx.Set(key, value)
		}
		return nil
	}))
	l := open(t, store, vectorKey(t))
	if d, _ := l.Get('U', "alice"); string(d) != `{"name":"alice"}` || l.Version() != 2 {
		t.Errorf("alice = %q at version %d", d, l.Version())
	}
}

package badgerkv

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"hash/crc32"
	"log/slog"
	"os"
	"path/filepath"
	"testing"

	"github.com/dgraph-io/badger/v4"
)

// FuzzInventory: whatever somebody writes into the inventory and the manifest beside it, with checksums that are right, is an error at most.
func FuzzInventory(f *testing.F) {
	dir := f.TempDir()
	s, err := Open(dir, Options{})
	if err != nil {
		f.Fatal(err)
	}
	if err := s.Close(); err != nil {
		f.Fatal(err)
	}
	manifest, err := os.ReadFile(filepath.Join(s.badgerDir, badger.ManifestFilename))
	if err != nil {
		f.Fatal(err)
	}
	whole, err := json.Marshal(inventory{
		Number: 1, Manifest: stretch{int64(len(manifest)), crc32.Checksum(manifest, castagnoli)}, Active: "00001.mem",
		Logs: map[string]stretch{"00001.mem": {20, 1}}, MaxTable: 3, Tables: []byte{1, 0, 0, 0, 1, 2, 3, 4},
	})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(whole, manifest)
	f.Add(fmt.Appendf(nil, `{"number":1,"manifest":{"length":-1,"crc32c":%d}}`, crc32.Checksum(manifest, castagnoli)), manifest)
	f.Add([]byte(`{"number":1,"manifest":{"length":9223372036854775807},"logs":{"../x":{"length":-5}},"tables":"AAAA"}`), []byte("Badger"))
	f.Add([]byte(`{}`), []byte{})
	log := slog.New(slog.DiscardHandler)
	at := f.TempDir()
	f.Fuzz(func(t *testing.T, text, manifest []byte) {
		b := binary.LittleEndian.AppendUint32(nil, uint32(len(text)))
		b = append(binary.LittleEndian.AppendUint32(b, crc32.Checksum(text, castagnoli)), text...)
		for name, content := range map[string][]byte{inventoryName: b, badger.ManifestFilename: manifest} {
			if err := os.WriteFile(filepath.Join(at, name), content, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		inv, err := readInventory(at, log)
		if err != nil {
			t.Fatal(err)
		}
		_ = inv.marks()
		_ = checkInventory(at, inv)
	})
}

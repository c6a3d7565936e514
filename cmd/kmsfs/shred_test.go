package main

import (
	"bytes"
	"context"
	"crypto/aes"
	"crypto/cipher"
	"encoding/hex"
	"encoding/json"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/kmsfs/kmsfs/crypto"
	"github.com/kmsfs/kmsfs/fs/kv/badgerkv"
	"github.com/kmsfs/kmsfs/fs/kv/ledger"
	"github.com/kmsfs/kmsfs/fs/kv/sealed"
	"github.com/kmsfs/kmsfs/keystore"
	"github.com/kmsfs/kmsfs/keystore/audit"
	"github.com/kmsfs/kmsfs/keystore/rootkey"
	"github.com/kmsfs/kmsfs/mount/control"
	"github.com/kmsfs/kmsfs/mount/host"
	"github.com/kmsfs/kmsfs/principals"
)

// A keyDocument is what the ledger holds of a key, as keystore/FORMAT.md has it.
type keyDocument struct {
	ID        string `json:"id"`
	Materials []struct {
		ID      string `json:"id"`
		Wrapped []byte `json:"wrapped"`
	} `json:"materials"`
}

// opens tries 32 bytes as the shred key of a document: whether its material unwraps. It follows the format and none of the program's code
// beyond HKDF.
func (d *keyDocument) opens(t *testing.T, root *crypto.DataKey, shredKey []byte) bool {
	t.Helper()
	var wrapping [32]byte
	crypto.HKDF(wrapping[:], root.Expose(), shredKey, "kmsfs keystore material v1 ", d.ID)
	block, err := aes.NewCipher(wrapping[:])
	if err != nil {
		t.Fatal(err)
	}
	gcm, err := cipher.NewGCM(block)
	if err != nil {
		t.Fatal(err)
	}
	ad, err := hex.DecodeString(strings.ReplaceAll(d.ID, "-", "") + d.Materials[0].ID)
	if err != nil {
		t.Fatal(err)
	}
	w := d.Materials[0].Wrapped
	_, err = gcm.Open(nil, w[:12], w[12:], ad)
	return err == nil
}

// TestDeletedKeyIsInNoByteOfTheStore is the proof of crypto-shredding on the store's bytes. An adversary has the store's directory after
// the deletion, the root key, and even the key's last document (a database keeps old versions of it). What he lacks is 32 bytes,
// the shred key: so every 32 bytes that stand anywhere in any file of the store are tried in its place. None opens the material, and without
// the material nothing opens the data keys of the files. The same search finds it before the deletion.
func TestDeletedKeyIsInNoByteOfTheStore(t *testing.T) {
	dir := t.TempDir() + "/store"
	t.Setenv("KMSFS_STORE", dir)
	if code := run(context.Background(), []string{"kmsfs", "init"}, streams{os.Stdin, os.Stdout, os.Stderr}); code != 0 {
		t.Fatal("init: ", code)
	}
	discard := slog.New(slog.DiscardHandler)
	s, err := openStore(dir, openOptions{Log: discard})
	if err != nil {
		t.Fatal(err)
	}
	d, err := s.Host(nil, false, nil)
	if err != nil {
		t.Fatal(err)
	}
	do := func(command string, args, result any) {
		t.Helper()
		raw, err := json.Marshal(args)
		if err != nil {
			t.Fatal(err)
		}
		r := d.Dispatch(context.Background(), self(), control.Request{Command: command, Args: raw}, func(any) error { return nil })
		if r.Error != nil {
			t.Fatal(command, ": ", r.Error)
		}
		if result != nil {
			if err := json.Unmarshal(r.Result, result); err != nil {
				t.Fatal(err)
			}
		}
	}
	var key host.KeyInfo
	do(host.CmdKeyCreate, host.KeyCreateArgs{Alias: "doomed"}, &key)
	do(host.CmdKeyCreate, host.KeyCreateArgs{Alias: "kept"}, nil)
	do(host.CmdKeyRotate, host.KeyArgs{Key: "alias/kept"}, nil)
	doc, ok := s.ledger.Get('k', key.KeyID)
	if !ok {
		t.Fatal("no document")
	}
	var document keyDocument
	if err := json.Unmarshal(doc, &document); err != nil {
		t.Fatal(err)
	}
	root := s.key(keyKeystore).Clone()
	defer root.Wipe()
	do(host.CmdKeyScheduleDeletion, host.KeyDeletionArgs{Key: key.ARN, Days: 7}, nil)
	if err := d.Shutdown(context.Background()); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if where := document.search(t, dir, root); len(where) != 1 || !strings.HasPrefix(where[0], fileShred) {
		t.Fatalf("before the deletion the shred key is found in %v, want the shred file", where)
	}

	passWeek(t, dir)
	if where := document.search(t, dir, root); len(where) != 0 {
		t.Errorf("after the deletion the material still opens with bytes of %v", where)
	}
}

// passWeek opens the rooms of a store that matter to keys, eight days later, and closes them.
func passWeek(t *testing.T, dir string) {
	t.Helper()
	ok := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	later := func() time.Time { return time.Now().Add(8 * 24 * time.Hour) }
	info, root, err := rootkey.Open(dir, rootkey.Unlocker{})
	ok(err)
	defer root.Wipe()
	engine, err := badgerkv.Open(dir, badgerkv.Options{Logger: slog.New(slog.DiscardHandler)})
	ok(err)
	l, err := ledger.Open(sealed.New(engine, root.Derive(nil, keyRows)), root.Derive(nil, keyLedger))
	ok(err)
	log, err := audit.Open(filepath.Join(dir, dirAudit), root.Derive(nil, keyAudit).Expose(), audit.Options{Clock: later})
	ok(err)
	people, err := principals.Open(l, info.Account, later)
	ok(err)
	keys, err := keystore.Open(keystore.Config{
		Ledger: l, Root: root.Derive(nil, keyKeystore), ShredFile: filepath.Join(dir, fileShred), Audit: log,
		Account: info.Account, Region: info.Region, Clock: later, Principals: people,
	})
	ok(err)
	ok(keys.Close())
	ok(log.Close())
	ok(engine.Close())
}

// search tries every 32 bytes of every file and says where the material opens.
func (d *keyDocument) search(t *testing.T, dir string, root *crypto.DataKey) []string {
	t.Helper()
	var where []string
	tried := map[[32]byte]bool{}
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || !e.Type().IsRegular() {
			return err
		}
		b, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		var zero [32]byte
		for i := 0; i+32 <= len(b); i++ {
			window := [32]byte(b[i:])
			if window == zero { // preallocated; on to where it ends
				n := len(b) - len(bytes.TrimLeft(b[i:], "\x00"))
				i = max(i, n-32)
				continue
			}
			if tried[window] || bytes.Count(window[:], []byte{0}) > 16 { // no random key has so many zero bytes
				continue
			}
			tried[window] = true
			if d.opens(t, root, window[:]) {
				name, err := filepath.Rel(dir, path)
				if err != nil {
					return err
				}
				where = append(where, name)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(tried) < 1000 {
		t.Fatalf("only %d places tried", len(tried))
	}
	t.Logf("%d places tried", len(tried))
	return where
}

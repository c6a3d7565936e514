package main

import (
	"bytes"
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"hash/crc32"
	iofs "io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/kmsfs/kmsfs/fs/kv"
	"github.com/kmsfs/kmsfs/fs/kv/badgerkv"
	"github.com/kmsfs/kmsfs/fs/kv/memkv"
	"github.com/kmsfs/kmsfs/fs/kv/sealed"
	"github.com/kmsfs/kmsfs/keystore"
	"github.com/kmsfs/kmsfs/keystore/rootkey"
)

// TestDeletedFilesOpenWithNothing is the proof of crypto-shredding down to the files: a burglar with the store's directory, after the
// deletion, and the root key. He opens every row, the present ones and the old ones in the redo log, and finds in them the key's old
// documents with its wrapped material, and the files' wrapped data keys. Every 32 bytes that stand anywhere, in the store's files or in
// what the rows say, he tries as the shred key, as the key's material, and as a data key. Before the deletion this opens every file.
func TestDeletedFilesOpenWithNothing(t *testing.T) {
	dir := t.TempDir() + "/store"
	t.Setenv("KMSFS_STORE", dir)
	if code := run(context.Background(), []string{"kmsfs", "init"}, streams{os.Stdin, os.Stdout, os.Stderr}); code != 0 {
		t.Fatal("init: ", code)
	}
	var id string
	withStore(t, dir, &lockedBuffer{}, func(s *store, u *hand) {
		admin, err := s.principals.Identity("admin")
		u.ok(err)
		m, err := s.keystore.CreateKey(&keystore.Call{Who: admin}, keystore.CreateKeyInput{Alias: "alias/doomed"})
		u.ok(err)
		id = m.KeyID
		u.mkdir("/box")
		u.set("/box", "user.s3.sse", "aws:kms:alias/doomed")
		u.write("/box/inline", 300)
		u.ok(s.keystore.RotateKeyOnDemand(&keystore.Call{Who: admin}, id))
		u.write("/box/segment", 30_000)
		_, err = s.keystore.ScheduleKeyDeletion(&keystore.Call{Who: admin}, id, 7)
		u.ok(err)
	})
	before := breakIn(t, dir, id)
	if len(before.extents) != 2 || len(before.materials) != 2 || len(before.wrapped) != 2 {
		t.Fatalf("the burglar finds %d extents, %d materials, %d data keys", len(before.extents), len(before.materials), len(before.wrapped))
	}
	before.search()
	if len(before.opened) != 2 || len(before.found) != 1 || before.found["shred key in "+fileShred] == 0 {
		t.Fatalf("before the deletion %d files open, by %v", len(before.opened), before.found)
	}

	passWeek(t, dir)
	after := breakIn(t, dir, id)
	if len(after.extents) != 2 || len(after.materials) != 2 || len(after.wrapped) != 2 {
		t.Fatalf("after the deletion the burglar has nothing to open: %d extents, %d materials, %d data keys",
			len(after.extents), len(after.materials), len(after.wrapped))
	}
	after.search()
	if len(after.found) != 0 || len(after.opened) != 0 {
		t.Errorf("after the deletion files %v open, by %v", after.opened, after.found)
	}
	t.Logf("%d and %d places tried", len(before.tried), len(after.tried))
}

// A burglar follows the formats, and uses of the program's code what opens the root key, Badger's rows and sealed rows.
type burglar struct {
	t         *testing.T
	dir, id   string
	arn       string
	uuid      []byte
	secret    []byte            // the root key's child for the keystore
	plain     [][]byte          // of all rows
	materials map[string][]byte // id -> wrapped
	wrapped   map[string]bool   // data keys, wrapped by the key
	extents   []soughtExtent
	tried     map[[32]byte]bool
	found     map[string]int
	opened    map[uint64]bool // inodes
}

// soughtExtent is the first block of an extent.
type soughtExtent struct {
	ino              uint64
	salt, sealed, ad []byte
}

func breakIn(t *testing.T, dir, id string) *burglar {
	t.Helper()
	b := &burglar{
		t: t, dir: dir, id: id, materials: map[string][]byte{}, wrapped: map[string]bool{},
		tried: map[[32]byte]bool{}, found: map[string]int{}, opened: map[uint64]bool{},
	}
	info, root, err := rootkey.Open(dir, rootkey.Unlocker{})
	b.ok(err)
	defer root.Wipe()
	b.arn = fmt.Sprintf("arn:aws:kms:%s:%s:key/%s", info.Region, info.Account, id)
	b.uuid, err = hex.DecodeString(strings.ReplaceAll(id, "-", ""))
	b.ok(err)
	b.secret = bytes.Clone(root.Derive(nil, keyKeystore).Expose())

	inner := memkv.New()
	rows := sealed.New(inner, root.Derive(nil, keyRows))
	pieces, inline := map[string]uint64{}, map[string][]byte{}
	seen := map[string]bool{}
	for _, r := range append(b.log(), b.engine()...) {
		for _, k := range [][]byte{r[0], r[0][1:]} { // in the log a byte for the space stands before a key
			if len(k) == 0 || seen[string(k)+string(r[1])] {
				continue
			}
			b.ok(inner.Update(func(tx kv.Txn) error { tx.Set(k, r[1]); return nil }))
			var p []byte
			if rows.View(func(tx kv.Reader) error { v, err := tx.Get(k); p = bytes.Clone(v); return err }) != nil {
				continue
			}
			seen[string(k)+string(r[1])] = true
			b.plain = append(b.plain, p)
			switch k[0] {
			case 'L':
				b.document(p)
			case 'i':
				b.dataKeys(p)
			case 'e':
				pieces[string(p)] = binary.BigEndian.Uint64(k[1:])
			case 'b':
				inline[string(k[1:17])] = p
			}
			break
		}
	}
	for p, ino := range pieces {
		b.extent(info.Store[:], ino, []byte(p)[1:], inline)
	}
	return b
}

func (b *burglar) ok(err error) {
	b.t.Helper()
	if err != nil {
		b.t.Fatal(err)
	}
}

// log is every row in the redo log's segments, of whatever life of theirs.
func (b *burglar) log() (rows [][2][]byte) {
	files, err := filepath.Glob(filepath.Join(b.dir, "redo", "*"))
	b.ok(err)
	for _, name := range files {
		s, err := os.ReadFile(name)
		b.ok(err)
		for at := 4096; at+32 <= len(s); at += 8 {
			n := int(binary.LittleEndian.Uint32(s[at+4:]))
			if n == 0 || n > len(s)-at-32 || crc32.Checksum(s[at+4:at+32+n], crc32.MakeTable(crc32.Castagnoli)) != binary.LittleEndian.Uint32(s[at:]) {
				continue
			}
			p := s[at+32 : at+32+n]
			take := func() (v []byte) {
				n, used := binary.Uvarint(p)
				v, p = p[used:used+int(n)], p[used+int(n):]
				return v
			}
			for len(p) > 0 {
				op := p[0]
				p = p[1:]
				if k := take(); op == 1 {
					rows = append(rows, [2][]byte{k, take()})
				}
			}
		}
	}
	return rows
}

// engine is what the rows are now.
func (b *burglar) engine() (rows [][2][]byte) {
	there := filepath.Join(b.t.TempDir(), "copy")
	b.ok(os.CopyFS(there, os.DirFS(b.dir)))
	s, err := badgerkv.Open(there, badgerkv.Options{Logger: slog.New(slog.DiscardHandler)})
	b.ok(err)
	b.ok(s.View(func(tx kv.Reader) error {
		return tx.Scan(nil, nil, func(k, v []byte) (bool, error) {
			rows = append(rows, [2][]byte{bytes.Clone(k), bytes.Clone(v)})
			return true, nil
		})
	}))
	b.ok(s.Close())
	return rows
}

// document looks for the key's materials in a document of the ledger.
func (b *burglar) document(p []byte) {
	if len(p) < 11 {
		return
	}
	n := int(binary.BigEndian.Uint16(p[9:]))
	var d keyDocument
	if len(p) < 11+n || string(p[11:11+n]) != b.id || json.Unmarshal(p[11+n:], &d) != nil {
		return
	}
	for _, m := range d.Materials {
		id, err := hex.DecodeString(m.ID)
		b.ok(err)
		b.materials[string(id)] = m.Wrapped
	}
}

// dataKeys looks for wrapped data keys of the key in the row of an inode.
func (b *burglar) dataKeys(p []byte) {
	head := append([]byte("KB2\x00"), b.uuid...)
	for i := bytes.Index(p, head); i >= 0 && i+176 <= len(p); i = bytes.Index(p, head) {
		b.wrapped[string(p[i:i+176])] = true
		p = p[i+20:]
	}
}

func (b *burglar) extent(store []byte, ino uint64, v []byte, inline map[string][]byte) {
	u := func() uint64 { x, n := binary.Uvarint(v); v = v[n:]; return x }
	u()
	u()
	id, plain := u(), u()
	u()
	e := soughtExtent{ino: ino, salt: v[:16]}
	v = v[16:]
	if v[0] == 1 {
		e.sealed = inline[string(binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint64(nil, ino), id))]
	} else {
		v = v[1:]
		name, at := filepath.Join(b.dir, dirSegments, fmt.Sprintf("%016x.seg", u())), u()
		s, err := os.ReadFile(name)
		b.ok(err)
		e.sealed = s[at : at+u()]
	}
	e.sealed = e.sealed[:min(len(e.sealed), 4096+16)]
	e.ad = binary.BigEndian.AppendUint32([]byte("KXB\x01"), uint32(plain))
	e.ad = append(e.ad, store...)
	e.ad = binary.BigEndian.AppendUint64(e.ad, ino)
	e.ad = binary.BigEndian.AppendUint64(e.ad, id)
	b.extents = append(b.extents, e)
}

// search tries all places.
func (b *burglar) search() {
	for _, p := range b.plain {
		b.sweep("a row", p)
	}
	b.ok(filepath.WalkDir(b.dir, func(path string, e iofs.DirEntry, err error) error {
		if err != nil || !e.Type().IsRegular() {
			return err
		}
		p, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		name, err := filepath.Rel(b.dir, path)
		b.sweep(name, p)
		return err
	}))
	if len(b.tried) < 10_000 {
		b.t.Fatalf("only %d places tried", len(b.tried))
	}
}

func (b *burglar) sweep(where string, p []byte) {
	for i := 0; i+32 <= len(p); i++ {
		w := [32]byte(p[i:])
		if w == ([32]byte{}) { // preallocated; on to where it ends
			i = max(i, len(p)-len(bytes.TrimLeft(p[i:], "\x00"))-32)
			continue
		}
		if b.tried[w] || bytes.Count(w[:], []byte{0}) > 12 { // no random key has so many zero bytes
			continue
		}
		b.tried[w] = true
		b.try(where, w[:])
	}
}

func (b *burglar) try(where string, key []byte) {
	wrapping := b.gcm(b.derive(32, b.secret, key, "kmsfs keystore material v1 "+b.id))
	for id, w := range b.materials {
		if material, err := wrapping.Open(nil, w[:12], w[12:], append(bytes.Clone(b.uuid), id...)); err == nil {
			b.found["shred key in "+where]++
			b.unwrap(id, material)
		}
	}
	for w := range b.wrapped {
		if _, is := b.committed(w, key); is {
			b.found["material in "+where]++
			b.unwrap(w[20:52], key)
		}
	}
	if b.open(key) {
		b.found["data key in "+where]++
	}
}

// committed derives the wrapping key of a wrapped data key and says whether the material is the right one.
func (b *burglar) committed(w string, material []byte) ([]byte, bool) {
	k := b.derive(64, material, []byte(w[52:84]), "kms-wrap-v2"+b.arn)
	return k[:32], string(k[32:]) == w[84:116]
}

// unwrap opens all that was wrapped under a material. He does not bother about the tag and with it the encryption context.
func (b *burglar) unwrap(id string, material []byte) {
	for w := range b.wrapped {
		if k, is := b.committed(w, material); is && w[20:52] == id {
			block, err := aes.NewCipher(k)
			b.ok(err)
			counter := append([]byte(w[116:128]), 0, 0, 0, 2) // GCM's first after the one for the tag
			dataKey := make([]byte, 32)
			cipher.NewCTR(block, counter).XORKeyStream(dataKey, []byte(w[128:160]))
			b.open(dataKey)
		}
	}
}

// open tries a data key on all files.
func (b *burglar) open(dataKey []byte) (any bool) {
	for _, e := range b.extents {
		if _, err := b.gcm(b.derive(32, dataKey, e.salt, "kmsfs-block-v1")).Open(nil, make([]byte, 12), e.sealed, e.ad); err == nil {
			b.opened[e.ino], any = true, true
		}
	}
	return any
}

func (b *burglar) derive(n int, secret, salt []byte, info string) []byte {
	k, err := hkdf.Key(sha256.New, secret, salt, info, n)
	b.ok(err)
	return k
}

func (b *burglar) gcm(key []byte) cipher.AEAD {
	block, err := aes.NewCipher(key)
	b.ok(err)
	g, err := cipher.NewGCM(block)
	b.ok(err)
	return g
}

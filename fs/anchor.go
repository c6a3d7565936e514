package fs

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/kmsfs/kmsfs/crypto"
)

// AnchorState is what the anchor remembers.
type AnchorState struct {
	Epoch uint64 // the newest closed epoch
	Clean bool   // the volume was closed in order
}

// Anchor keeps the number of the newest closed epoch outside the rows, so that an older copy of the rows is noticed.
type Anchor interface {
	Load() (AnchorState, error) // the zero state if there is none yet
	Store(AnchorState) error    // durable when it returns
}

// ErrOlder says that the rows are older than the anchor: an earlier copy of the store was put in place.
var ErrOlder = errors.New("the store is older than its epoch file says")

// The anchor file: two slots of 512 bytes, written in turn, each
//
//	magic 8 "kmsfsAN1" | sequence 8 | epoch 8 | clean 1 | HMAC-SHA256 of the 25 bytes before, 32
//
// A torn write spoils one slot; the other still holds the state before.
const (
	anchorMagic = "kmsfsAN1"
	anchorSlot  = 512
	anchorBody  = 8 + 8 + 8 + 1
)

// FileAnchor is an anchor in a file, authenticated with a key of its own.
type FileAnchor struct {
	mu   sync.Mutex
	file *os.File
	key  []byte
	seq  uint64
}

// OpenFileAnchor opens or makes the file.
func OpenFileAnchor(path string, key *crypto.DataKey) (*FileAnchor, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open epoch file: %w", err)
	}
	return &FileAnchor{file: f, key: append([]byte(nil), key.Expose()...)}, nil
}

// Close closes the file.
func (a *FileAnchor) Close() error { return a.file.Close() }

// Load reads the newer of the two slots. A file without a valid slot is an error, unless it is empty.
func (a *FileAnchor) Load() (AnchorState, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	buf := make([]byte, 2*anchorSlot)
	n, err := a.file.ReadAt(buf, 0)
	if err != nil && !errors.Is(err, io.EOF) {
		return AnchorState{}, fmt.Errorf("read epoch file: %w", err)
	}
	if n == 0 {
		return AnchorState{}, nil
	}
	var state AnchorState
	found := false
	for i := 0; i+anchorBody+sha256.Size <= n; i += anchorSlot {
		s, seq, ok := a.decode(buf[i:])
		if ok && (!found || seq > a.seq) {
			state, a.seq, found = s, seq, true
		}
	}
	if !found {
		return AnchorState{}, fmt.Errorf("%w: epoch file", ErrCorrupt)
	}
	return state, nil
}

// Store writes the slot that is not the newest.
func (a *FileAnchor) Store(s AnchorState) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.seq++
	if _, err := a.file.WriteAt(a.encode(s, a.seq), int64(a.seq%2)*anchorSlot); err != nil {
		return fmt.Errorf("write epoch file: %w", err)
	}
	if err := unix.Fdatasync(int(a.file.Fd())); err != nil {
		return fmt.Errorf("sync epoch file: %w", err)
	}
	return nil
}

func (a *FileAnchor) encode(s AnchorState, seq uint64) []byte {
	b := append(make([]byte, 0, anchorSlot), anchorMagic...)
	b = binary.BigEndian.AppendUint64(b, seq)
	b = binary.BigEndian.AppendUint64(b, s.Epoch)
	if s.Clean {
		b = append(b, 1)
	} else {
		b = append(b, 0)
	}
	b = append(b, a.mac(b)...)
	return b[:anchorSlot]
}

func (a *FileAnchor) decode(b []byte) (s AnchorState, seq uint64, ok bool) {
	body := b[:anchorBody]
	if string(body[:8]) != anchorMagic || !hmac.Equal(a.mac(body), b[anchorBody:anchorBody+sha256.Size]) {
		return s, 0, false
	}
	return AnchorState{Epoch: binary.BigEndian.Uint64(body[16:]), Clean: body[24] == 1}, binary.BigEndian.Uint64(body[8:]), true
}

func (a *FileAnchor) mac(body []byte) []byte {
	m := hmac.New(sha256.New, a.key)
	m.Write(body)
	return m.Sum(nil)
}

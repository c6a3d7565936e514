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

// WitnessSize is the length of a Witness.
const WitnessSize = 40

// Witness is what somebody else keeps in the epoch file beside the epoch: the end of the audit log. The zero value is none.
type Witness [WitnessSize]byte

// The anchor file: two slots of 512 bytes, written in turn, each
//
//	magic 8 "kmsfsAN2" | sequence 8 | epoch 8 | clean 1 | witness 40 | HMAC-SHA256 of the 65 bytes before, 32
//
// A torn write spoils one slot; the other still holds the state before. Slots of old stores have the magic "kmsfsAN1" and no witness.
const (
	anchorMagic    = "kmsfsAN2"
	anchorMagicOld = "kmsfsAN1"
	anchorSlot     = 512
	anchorBodyOld  = 8 + 8 + 8 + 1
	anchorBody     = anchorBodyOld + WitnessSize
)

// FileAnchor is an anchor in a file, authenticated with a key of its own. Safe for concurrent use.
type FileAnchor struct {
	mu      sync.Mutex // guards what follows, and is held over the write and its sync
	file    *os.File
	key     *crypto.DataKey
	seq     uint64
	state   AnchorState
	witness Witness
}

// OpenFileAnchor opens or makes the file. Load comes before anything is stored.
func OpenFileAnchor(path string, key *crypto.DataKey) (*FileAnchor, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open epoch file: %w", err)
	}
	return &FileAnchor{file: f, key: key.Clone()}, nil
}

// Close closes the file and wipes the key.
func (a *FileAnchor) Close() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.key.Wipe()
	return a.file.Close()
}

// Load reads the newer of the two slots. A file without a valid slot is an error, unless it is empty.
func (a *FileAnchor) Load() (AnchorState, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	err := a.load()
	return a.state, err
}

// Witness reads what SetWitness stored last; the zero value if that was never done.
func (a *FileAnchor) Witness() (Witness, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	err := a.load()
	return a.witness, err
}

func (a *FileAnchor) load() error {
	a.state, a.witness = AnchorState{}, Witness{}
	if a.key.Wiped() {
		return fmt.Errorf("read epoch file: %w", os.ErrClosed)
	}
	buf := make([]byte, 2*anchorSlot)
	n, err := a.file.ReadAt(buf, 0)
	if err != nil && !errors.Is(err, io.EOF) {
		return fmt.Errorf("read epoch file: %w", err)
	}
	if n == 0 {
		return nil
	}
	found := false
	for i := 0; i+anchorBody+sha256.Size <= n; i += anchorSlot {
		s, w, seq, ok := a.decode(buf[i:])
		if ok && (!found || seq > a.seq) {
			a.state, a.witness, a.seq, found = s, w, seq, true
		}
	}
	if !found {
		return fmt.Errorf("%w: epoch file", ErrCorrupt)
	}
	return nil
}

// Store writes the slot that is not the newest.
func (a *FileAnchor) Store(s AnchorState) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.state = s
	return a.write()
}

// SetWitness keeps a witness beside the state that was loaded or stored last. It is durable when SetWitness returns.
func (a *FileAnchor) SetWitness(w Witness) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if w == a.witness {
		return nil
	}
	before := a.witness
	a.witness = w
	err := a.write()
	if err != nil {
		a.witness = before // so that the next attempt writes
	}
	return err
}

func (a *FileAnchor) write() error {
	if a.key.Wiped() {
		return fmt.Errorf("write epoch file: %w", os.ErrClosed)
	}
	a.seq++
	if _, err := a.file.WriteAt(a.encode(), int64(a.seq%2)*anchorSlot); err != nil {
		return fmt.Errorf("write epoch file: %w", err)
	}
	if err := unix.Fdatasync(int(a.file.Fd())); err != nil {
		return fmt.Errorf("sync epoch file: %w", err)
	}
	return nil
}

func (a *FileAnchor) encode() []byte {
	b := append(make([]byte, 0, anchorSlot), anchorMagic...)
	b = binary.BigEndian.AppendUint64(b, a.seq)
	b = binary.BigEndian.AppendUint64(b, a.state.Epoch)
	if a.state.Clean {
		b = append(b, 1)
	} else {
		b = append(b, 0)
	}
	b = append(b, a.witness[:]...)
	b = append(b, a.mac(b)...)
	return b[:anchorSlot]
}

func (a *FileAnchor) decode(b []byte) (s AnchorState, w Witness, seq uint64, ok bool) {
	n := anchorBody
	if string(b[:8]) == anchorMagicOld {
		n = anchorBodyOld
	} else if string(b[:8]) != anchorMagic {
		return s, w, 0, false
	}
	body := b[:n]
	if !hmac.Equal(a.mac(body), b[n:n+sha256.Size]) {
		return s, w, 0, false
	}
	copy(w[:], body[anchorBodyOld:])
	return AnchorState{Epoch: binary.BigEndian.Uint64(body[16:]), Clean: body[24] == 1}, w, binary.BigEndian.Uint64(body[8:]), true
}

func (a *FileAnchor) mac(body []byte) []byte {
	sum := a.key.MAC(body)
	return sum[:]
}

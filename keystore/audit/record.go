package audit

import (
	"bytes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"

	"golang.org/x/crypto/chacha20poly1305"
)

// The sizes of FORMAT.md.
const (
	magic      = "KMSFSAL\x00"
	version    = 1
	headerSize = 128
	macSize    = 32

	recordPrefix = 4 + 8                                                             // length, sequence
	minBody      = chacha20poly1305.NonceSizeX + chacha20poly1305.Overhead           // an empty event
	maxLine      = 1 << 20                                                           // bytes of one event's JSON
	maxBody      = maxLine + chacha20poly1305.NonceSizeX + chacha20poly1305.Overhead //
	maxRecord    = recordPrefix + maxBody + macSize                                  //
	minRecord    = recordPrefix + minBody + macSize                                  //
	maxSequence  = uint64(1) << 48                                                   // a plausibility limit: 281 trillion events
	sealInfo     = "kmsfs audit seal v1"
	chainInfo    = "kmsfs audit chain v1"
	headerLabel  = "kmsfs audit header"
	genesisLabel = "kmsfs audit genesis"
)

var (
	// ErrBroken means that the log was changed: something in it is damaged, missing or out of order.
	ErrBroken = errors.New("audit: the log is broken")
	// ErrVersion means that a file was written by another version of the format.
	ErrVersion = errors.New("audit: unknown format version")
	// ErrClosed is the answer of a closed log.
	ErrClosed = errors.New("audit: log is closed")
	// ErrKey means that the log was written under another key.
	ErrKey = errors.New("audit: not this log's key, or a changed file header")

	errShort  = errors.New("audit: incomplete record")
	errFormat = errors.New("audit: not a record")
)

type mac [macSize]byte

// flagPacked says that events of the file may be packed.
const flagPacked = 1

// header is the start of every file.
type header struct {
	flags      uint16
	logID      [16]byte
	index      uint64 // of this file, from 1
	first      uint64 // sequence of the first record in this file
	prevLength int64  // bytes of the previous file that count
	prevTorn   int64  // bytes behind them that a crash left and nobody reads
	chain      mac    // the chain before the first record
}

// record is one parsed, not yet opened record. Its slices point into the parsed bytes.
type record struct {
	seq    uint64
	body   []byte // nonce, ciphertext, tag
	signed []byte // everything the chain covers: length, sequence, body
	chain  mac    // as stored
}

func (r record) size() int64 { return int64(len(r.signed) + macSize) }

// Vault is where the log has its keys for as long as it is open.
type Vault interface {
	// AEAD takes over a cipher that nobody else has.
	AEAD(c cipher.AEAD) cipher.AEAD
	// MAC is HMAC-SHA256 under a key, which it does not keep as it is, of its arguments one after the other.
	MAC(key []byte) func(parts ...[]byte) [sha256.Size]byte
}

// heap is the Vault of who gives none.
type heap struct{}

func (heap) AEAD(c cipher.AEAD) cipher.AEAD { return c }

func (heap) MAC(key []byte) func(parts ...[]byte) [sha256.Size]byte {
	key = bytes.Clone(key)
	return func(parts ...[]byte) (sum [sha256.Size]byte) {
		h := hmac.New(sha256.New, key)
		for _, p := range parts {
			h.Write(p)
		}
		h.Sum(sum[:0])
		return sum
	}
}

// keys are the two keys derived from the log's.
type keys struct {
	aead cipher.AEAD
	mac  func(parts ...[]byte) [sha256.Size]byte // for the chain
}

func newKeys(key []byte, v Vault) (*keys, error) {
	if len(key) != 32 {
		return nil, fmt.Errorf("audit: key of %d bytes, want 32", len(key))
	}
	seal, err := hkdf.Key(sha256.New, key, nil, sealInfo, chacha20poly1305.KeySize)
	if err != nil {
		return nil, fmt.Errorf("audit: derive: %w", err)
	}
	chain, err := hkdf.Key(sha256.New, key, nil, chainInfo, sha256.Size)
	if err != nil {
		return nil, fmt.Errorf("audit: derive: %w", err)
	}
	aead, err := chacha20poly1305.NewX(seal)
	clear(seal)
	if err != nil {
		return nil, fmt.Errorf("audit: cipher: %w", err)
	}
	defer clear(chain)
	if v == nil {
		v = heap{}
	}
	return &keys{aead: v.AEAD(aead), mac: v.MAC(chain)}, nil
}

// link is the chain after a record.
func (k *keys) link(prev mac, signed []byte) mac { return k.mac(prev[:], signed) }

// genesis is the chain before the first record of a log.
func (k *keys) genesis(logID [16]byte) mac { return k.labelledMAC(genesisLabel, logID[:]) }

func (k *keys) headerMAC(b []byte) mac { return k.labelledMAC(headerLabel, b) }

func (k *keys) labelledMAC(label string, b []byte) mac { return k.mac([]byte(label), b) }

// encode is the header's 128 bytes.
func (h header) encode(k *keys) []byte {
	b := make([]byte, 0, headerSize)
	b = append(b, magic...)
	b = binary.BigEndian.AppendUint16(b, version)
	b = binary.BigEndian.AppendUint16(b, h.flags)
	b = binary.BigEndian.AppendUint32(b, headerSize)
	b = append(b, h.logID[:]...)
	b = binary.BigEndian.AppendUint64(b, h.index)
	b = binary.BigEndian.AppendUint64(b, h.first)
	b = binary.BigEndian.AppendUint64(b, uint64(h.prevLength))
	b = binary.BigEndian.AppendUint64(b, uint64(h.prevTorn))
	b = append(b, h.chain[:]...)
	m := k.headerMAC(b)
	return append(b, m[:]...)
}

// parseHeader reads and authenticates a file's first bytes. ErrVersion for another version or an unknown flag, ErrKey for
// a failed authentication, errShort for a file that ends inside its header.
func parseHeader(k *keys, b []byte) (header, error) {
	if len(b) < headerSize {
		return header{}, errShort
	}
	b = b[:headerSize]
	if string(b[:8]) != magic {
		return header{}, errFormat
	}
	if v := binary.BigEndian.Uint16(b[8:]); v != version {
		return header{}, fmt.Errorf("%w %d", ErrVersion, v)
	}
	flags := binary.BigEndian.Uint16(b[10:])
	if flags&^flagPacked != 0 {
		return header{}, fmt.Errorf("%w: feature flags %#x", ErrVersion, flags)
	}
	want := k.headerMAC(b[:headerSize-macSize])
	if !hmac.Equal(want[:], b[headerSize-macSize:]) {
		return header{}, ErrKey
	}
	h := header{flags: flags}
	copy(h.logID[:], b[16:])
	h.index = binary.BigEndian.Uint64(b[32:])
	h.first = binary.BigEndian.Uint64(b[40:])
	h.prevLength = int64(binary.BigEndian.Uint64(b[48:]))
	h.prevTorn = int64(binary.BigEndian.Uint64(b[56:]))
	copy(h.chain[:], b[64:])
	return h, nil
}

// recordSize reads the length of the record that starts at b, of which at least recordPrefix bytes must be there.
func recordSize(b []byte) (int, error) {
	if len(b) < recordPrefix {
		return 0, errShort
	}
	n := binary.BigEndian.Uint32(b)
	seq := binary.BigEndian.Uint64(b[4:])
	if n < minBody || n > maxBody || seq == 0 || seq > maxSequence {
		return 0, errFormat
	}
	return recordPrefix + int(n) + macSize, nil
}

// parseRecord reads the record at the start of b; it does not authenticate anything.
func parseRecord(b []byte) (record, error) {
	n, err := recordSize(b)
	if err != nil {
		return record{}, err
	}
	if len(b) < n {
		return record{}, errShort
	}
	r := record{
		seq:    binary.BigEndian.Uint64(b[4:]),
		signed: b[:n-macSize],
		body:   b[recordPrefix : n-macSize],
	}
	copy(r.chain[:], b[n-macSize:n])
	return r, nil
}

// associated is what a record's ciphertext is bound to.
func associated(logID [16]byte, seq uint64) (ad [24]byte) {
	copy(ad[:], logID[:])
	binary.BigEndian.PutUint64(ad[16:], seq)
	return ad
}

// seal appends a record to dst and returns the chain after it.
func (k *keys) seal(dst []byte, logID [16]byte, seq uint64, prev mac, line []byte) ([]byte, mac) {
	var nonce [chacha20poly1305.NonceSizeX]byte
	rand.Read(nonce[:])
	return k.sealWith(nonce, dst, logID, seq, prev, line)
}

// sealWith is seal with a nonce, which must be random except in test vectors.
func (k *keys) sealWith(nonce [chacha20poly1305.NonceSizeX]byte, dst []byte, logID [16]byte, seq uint64, prev mac, line []byte) ([]byte, mac) {
	start := len(dst)
	dst = binary.BigEndian.AppendUint32(dst, uint32(len(line)+minBody))
	dst = binary.BigEndian.AppendUint64(dst, seq)
	dst = append(dst, nonce[:]...)
	ad := associated(logID, seq)
	dst = k.aead.Seal(dst, dst[len(dst)-len(nonce):], line, ad[:])
	m := k.link(prev, dst[start:])
	return append(dst, m[:]...), m
}

// open decrypts a record's event, as JSON.
func (k *keys) open(logID [16]byte, r record) ([]byte, error) {
	n := chacha20poly1305.NonceSizeX
	ad := associated(logID, r.seq)
	line, err := k.aead.Open(nil, r.body[:n], r.body[n:], ad[:])
	if err != nil {
		return nil, fmt.Errorf("%w: record %d does not authenticate", ErrBroken, r.seq)
	}
	if line, err = unpack(line); err != nil {
		return nil, fmt.Errorf("%w: record %d: %w", ErrBroken, r.seq, err)
	}
	return line, nil
}

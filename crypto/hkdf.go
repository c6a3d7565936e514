package crypto

import (
	"crypto/fips140"
	"crypto/hkdf"
	"crypto/sha256"
	"encoding/binary"
	"strings"
)

// HKDF fills out with HKDF-SHA256(secret, salt, info) of RFC 5869, info being its parts one after the other: what crypto/hkdf gives,
// without its allocations, because a key is derived for every extent and every wrapped key. out has at most 255 times 32 bytes.
// In FIPS 140-3 mode it is crypto/hkdf, which belongs to the validated module.
func HKDF(out, secret, salt []byte, info ...string) {
	if len(out) > 255*sha256.Size {
		panic("crypto: too much key material asked of HKDF")
	}
	if fips140.Enabled() {
		key, err := hkdf.Key(sha256.New, secret, salt, strings.Join(info, ""), len(out))
		if err != nil {
			panic("crypto: hkdf: " + err.Error()) // only an output that is too long fails
		}
		copy(out, key)
		clear(key)
		return
	}
	var prk, t [sha256.Size]byte
	var room [512]byte // holds what is hashed, unless it is unusually long
	hmac(&prk, salt, secret, nil, 0, room[:0])
	last := t[:0]
	for i := byte(1); len(out) > 0; i++ {
		hmac(&t, prk[:], last, info, i, room[:0])
		last = t[:]
		out = out[copy(out, t[:]):]
	}
	clear(prk[:])
	clear(t[:])
	clear(room[:])
}

// hmac is HMAC-SHA256(key, message), or, with a counter, HMAC-SHA256(key, message | info | counter).
func hmac(out *[sha256.Size]byte, key, message []byte, info []string, counter byte, buf []byte) {
	var pad [sha256.BlockSize]byte
	if len(key) > len(pad) {
		short := sha256.Sum256(key)
		copy(pad[:], short[:])
	} else {
		copy(pad[:], key)
	}
	mask(&pad, 0x36)
	buf = append(append(buf, pad[:]...), message...)
	if counter > 0 {
		for _, part := range info {
			buf = append(buf, part...)
		}
		buf = append(buf, counter)
	}
	*out = sha256.Sum256(buf)
	clear(buf)
	mask(&pad, 0x36^0x5c)
	var outer [sha256.BlockSize + sha256.Size]byte
	copy(outer[:], pad[:])
	copy(outer[sha256.BlockSize:], out[:])
	*out = sha256.Sum256(outer[:])
	clear(pad[:])
	clear(outer[:])
}

func mask(pad *[sha256.BlockSize]byte, with byte) {
	m := uint64(with) * 0x0101010101010101
	for i := 0; i < len(pad); i += 8 {
		word := pad[i : i+8 : i+8]
		binary.NativeEndian.PutUint64(word, binary.NativeEndian.Uint64(word)^m)
	}
}

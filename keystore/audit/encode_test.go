package audit

import (
	"bytes"
	"encoding/json"
	"math/rand/v2"
	"reflect"
	"testing"
)

// TestEncoderIsJSON: what the encoder writes is what encoding/json writes, for events with any fields set.
func TestEncoderIsJSON(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 1))
	for range 3000 {
		var e Event
		fill(rnd, reflect.ValueOf(&e).Elem())
		e.EventTime.Time = testClock()
		if e.RequestParameters != nil && rnd.IntN(2) == 0 { // what the encoder writes itself
			e.RequestParameters = &Parameters{
				KeyID: text(rnd), KeySpec: text(rnd), EncryptionContext: map[string]string{text(rnd): text(rnd), "b": text(rnd)},
				EncryptionAlgorithm: text(rnd), SourceKeyID: text(rnd), SourceEncryptionAlgorithm: text(rnd), DestinationKeyID: text(rnd),
				DestinationEncryptionAlgorithm: text(rnd), DestinationEncryptionContext: map[string]string{"x": text(rnd)},
			}
		}
		got, err := e.JSON()
		if err != nil {
			t.Fatal(err)
		}
		var want bytes.Buffer
		enc := json.NewEncoder(&want)
		enc.SetEscapeHTML(false)
		if err := enc.Encode(&e); err != nil {
			t.Fatal(err)
		}
		packed, err := e.appendPacked(nil)
		if err != nil {
			t.Fatal(err)
		}
		if unpacked, err := unpack(packed); err != nil || !bytes.Equal(unpacked, got) {
			t.Fatalf("unpacked %s, %v\nwant     %s", unpacked, err, got)
		}
		if !bytes.Equal(append(got, '\n'), want.Bytes()) {
			t.Fatalf("got  %s\nwant %s", got, want.Bytes())
		}
	}
}

func text(rnd *rand.Rand) string {
	some := []string{
		"", "a", "arn:aws:s3:::pay/q1.csv", "<&>", "tab\t", "quote\"", "back\\slash", "ümläut", "\xff\xfe", "\u2028", "\x7f", "\x00",
		"arn:aws:kms:r:a:key/01234567-89ab-cdef-0123-456789abcdef", "01234567-89ab-cdef-0123-456789abcdef", "01234567-89AB-cdef-0123-456789abcdef",
		"01234567-89ab-cdef-0123-456789abcde", "01234567--9ab-cdef-0123-456789abcdef", "01234567-89ab-cdef-0123-4567-9abcdef", "arn:aws:iam::1:user/a", "AwsApiCall", "{",
		"7b7b7b7b-7b7b-7b7b-7b7b-7b7b7b7b7b7b",
	}
	return some[rnd.IntN(len(some))]
}

// fill sets a value at random.
func fill(rnd *rand.Rand, v reflect.Value) {
	if v.Type() == reflect.TypeFor[Time]() {
		return
	}
	switch v.Kind() {
	case reflect.String:
		v.SetString(text(rnd))
	case reflect.Bool:
		v.SetBool(rnd.IntN(2) == 0)
	case reflect.Int:
		v.SetInt(rnd.Int64N(3))
	case reflect.Uint32, reflect.Uint64:
		v.SetUint(rnd.Uint64N(3))
	case reflect.Struct:
		for i := range v.NumField() {
			fill(rnd, v.Field(i))
		}
	case reflect.Pointer:
		if rnd.IntN(3) > 0 {
			v.Set(reflect.New(v.Type().Elem()))
			fill(rnd, v.Elem())
		}
	case reflect.Slice:
		if n := rnd.IntN(3); n > 0 {
			v.Set(reflect.MakeSlice(v.Type(), n, n))
			for i := range n {
				fill(rnd, v.Index(i))
			}
		}
	case reflect.Map:
		if rnd.IntN(2) == 0 {
			v.Set(reflect.MakeMap(v.Type()))
			v.SetMapIndex(reflect.ValueOf(text(rnd)), reflect.ValueOf(text(rnd)))
		}
	default:
		panic(v.Kind().String())
	}
}

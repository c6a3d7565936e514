package meta

import "errors"

// Usage is what a bucket with a quota held when an epoch was closed.
type Usage struct {
	Epoch  uint64 // that epoch
	Bytes  uint64 // the sum of file sizes
	Inodes uint64 // beneath the bucket
}

func encodeUsage(u Usage) []byte {
	e := newEnc(24)
	e.u(u.Epoch)
	e.u(u.Bytes)
	e.u(u.Inodes)
	return e.b
}

func decodeUsage(b []byte) (Usage, error) {
	d := newDec(b)
	u := Usage{d.u(), d.u(), d.u()}
	return u, d.end("usage")
}

// Usage reads what was last recorded of a bucket; a bucket without a record gives the zero Usage.
func (r *Reader) Usage(bucket Ino) (Usage, error) {
	v, err := r.get(usageKey(bucket))
	if errors.Is(err, ErrNotFound) {
		return Usage{}, nil
	}
	if err != nil {
		return Usage{}, err
	}
	return decodeUsage(v)
}

// PutUsage records a bucket's usage.
func (t *Tx) PutUsage(bucket Ino, u Usage) { t.t.Set(usageKey(bucket), encodeUsage(u)) }

// DeleteUsage removes the record of a bucket.
func (t *Tx) DeleteUsage(bucket Ino) { t.t.Delete(usageKey(bucket)) }

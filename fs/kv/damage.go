package kv

// DamageScanner is a Reader that knows whether a row is what was written, and can go on behind one that is not.
type DamageScanner interface {
	// ScanDamaged is Scan, except that a row that is not what was written does not end it: fn gets its key, no value, and an error that
	// wraps ErrCorrupt.
	ScanDamaged(start, end []byte, fn func(key, value []byte, damage error) (more bool, err error)) error
}

// ScanDamaged is ScanDamaged of a Reader that has it, else Scan.
func ScanDamaged(r Reader, start, end []byte, fn func(key, value []byte, damage error) (more bool, err error)) error {
	if s, ok := r.(DamageScanner); ok {
		return s.ScanDamaged(start, end, fn)
	}
	return r.Scan(start, end, func(key, value []byte) (bool, error) { return fn(key, value, nil) })
}

package fs

import (
	"bytes"
	"testing"
)

func FuzzParseACL(f *testing.F) {
	f.Add(acl{{aclUserObj, 6, aclNoID}, {aclGroupObj, 4, aclNoID}, {aclOther, 0, aclNoID}}.encode())
	f.Add(acl{
		{aclUserObj, 7, aclNoID}, {aclUser, 5, 1000}, {aclGroupObj, 5, aclNoID}, {aclGroup, 1, 7}, {aclMask, 7, aclNoID}, {aclOther, 0, aclNoID},
	}.encode())
	f.Add([]byte{2, 0, 0, 0})
	f.Add([]byte{1, 0, 0, 0})
	f.Fuzz(func(t *testing.T, b []byte) {
		l, err := parseACL(b)
		if err != nil || l == nil {
			return
		}
		again, err := parseACL(l.encode())
		if err != nil || !bytes.Equal(again.encode(), l.encode()) {
			t.Fatalf("%v does not survive: %v", l, err)
		}
		for _, mode := range []uint32{0, 0o777, 0o640, 0o421} {
			l.chmod(mode)
			if bits, _ := l.mode(); bits != mode {
				t.Fatalf("chmod %o shows as %o", mode, bits)
			}
			l.restrict(0o750)
			if bits, _ := l.mode(); bits != mode&0o750 {
				t.Fatalf("%o restricted to 750 shows as %o", mode, bits)
			}
		}
	})
}

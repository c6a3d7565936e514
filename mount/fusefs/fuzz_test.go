package fusefs

import (
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// FuzzParseOptions parses what users hand to -o: no panic, and what an ordinary user gets away with opens no door.
func FuzzParseOptions(f *testing.F) {
	for _, s := range []string{
		"", "ro,noexec,noatime", "allow_other,default_permissions", "sse=aws:kms:alias/x,errno=posix", "sse=aws:kms,sse-kms-key-id=alias/x,bucket-key",
		"dev,suid", "user_id=0,fd=3,rootmode=40000", "ro,,ro=1", "sse=AES256;context=e30=", "fsname=a,b\\,c",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		o, err := ParseOptions(text, false)
		if err != nil {
			return
		}
		const known = unix.MS_NOEXEC | unix.MS_NOSUID | unix.MS_NODEV | unix.MS_SYNCHRONOUS | unix.MS_DIRSYNC | unix.MS_NOATIME |
			unix.MS_NODIRATIME | unix.MS_RELATIME | unix.MS_STRICTATIME
		if o.AllowOther || o.UID != 0 || o.GID != 0 || o.Source != "" || o.Flags&^uintptr(known) != 0 {
			t.Errorf("%q gives %+v", text, o)
		}
		// What goes to fusermount3 is one option a word: nothing that the user wrote is among it.
		for _, opt := range helperOptions(o) {
			if name, _, _ := strings.Cut(opt, "="); strings.ContainsAny(opt, ", ") || name == "allow_other" || name == "dev" || name == "suid" {
				t.Errorf("%q hands %q to fusermount3", text, opt)
			}
		}
	})
}

package fusefs

import (
	"fmt"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/kmsfs/kmsfs/mount"
)

// Options say how to mount. The zero value mounts for root.
type Options struct {
	UID, GID           uint32 // whose mount it is; others are refused by the kernel unless AllowOther
	ReadOnly           bool
	AllowOther         bool
	DefaultPermissions bool   // the kernel enforces owner and mode as well
	PosixErrno         bool   // EACCES where a key is revoked or gone
	SSE                string // user.s3.sse of every new file; for mount.Options
	Source             string // the device that mountinfo names; empty: kmsfs
	Flags              uintptr
	Debug              bool
	Kernel             Kernel `json:"-"` // nil: Direct
	Awake              *Awake `json:"-"` // may be nil
	NoSpin             bool   `json:"-"` // wait for requests asleep only
}

// flagOptions are mount options that are bits of mount(2).
var flagOptions = map[string]struct {
	set, clear uintptr
}{
	"noexec":      {set: unix.MS_NOEXEC},
	"exec":        {clear: unix.MS_NOEXEC},
	"nosuid":      {set: unix.MS_NOSUID},
	"nodev":       {set: unix.MS_NODEV},
	"sync":        {set: unix.MS_SYNCHRONOUS},
	"async":       {clear: unix.MS_SYNCHRONOUS},
	"dirsync":     {set: unix.MS_DIRSYNC},
	"atime":       {clear: unix.MS_NOATIME},
	"noatime":     {set: unix.MS_NOATIME},
	"nodiratime":  {set: unix.MS_NODIRATIME},
	"diratime":    {clear: unix.MS_NODIRATIME},
	"relatime":    {set: unix.MS_RELATIME},
	"norelatime":  {clear: unix.MS_RELATIME},
	"strictatime": {set: unix.MS_STRICTATIME},
}

// ignoredOptions are those that mount(8) and fstab add and that mean nothing to a mount itself.
var ignoredOptions = map[string]bool{"defaults": true, "rw": true, "auto": true, "noauto": true, "nofail": true, "_netdev": true, "user": true, "nouser": true, "users": true}

// ParseOptions reads a comma-separated option string as -o takes it. Only what is known is taken: an unknown option is an error, and
// so are dev and suid, which would make the daemon a door. privileged allows allow_other, which lets every local user act as the
// principal.
func ParseOptions(text string, privileged bool) (Options, error) {
	var o Options
	var sse, key string
	var bucketKey bool
	for opt := range strings.SplitSeq(text, ",") {
		name, value, hasValue := strings.Cut(opt, "=")
		if f, ok := flagOptions[opt]; ok {
			o.Flags = o.Flags&^f.clear | f.set
			continue
		}
		switch {
		case opt == "" || ignoredOptions[opt]:
		case opt == "ro":
			o.ReadOnly = true
		case opt == "allow_other":
			if !privileged {
				return Options{}, fmt.Errorf("option allow_other is for root: it lets every user act as the principal")
			}
			o.AllowOther = true
		case opt == "default_permissions":
			o.DefaultPermissions = true
		case opt == "errno=posix":
			o.PosixErrno = true
		case name == "sse" && hasValue:
			sse = value
		case name == "sse-kms-key-id" && hasValue:
			key = value
		case opt == "bucket-key":
			bucketKey = true
		default:
			return Options{}, fmt.Errorf("option %q is not known", opt)
		}
	}
	if (key != "" || bucketKey) && sse == "" {
		return Options{}, fmt.Errorf("options sse-kms-key-id and bucket-key need sse=aws:kms")
	}
	if key != "" {
		if sse != "aws:kms" {
			return Options{}, fmt.Errorf("option sse-kms-key-id needs sse=aws:kms")
		}
		sse += ":" + key
	}
	if bucketKey {
		sse += ";bucket-key=true"
	}
	if sse != "" {
		if err := mount.CheckSSE(sse); err != nil {
			return Options{}, fmt.Errorf("option sse: %w", err)
		}
	}
	o.SSE = sse
	return o, nil
}

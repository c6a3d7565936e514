package matrix

import (
	"os"
	"os/exec"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// place is where a child acts: a principal's mount, a bucket, and the fixtures of one operation in it.
type place struct {
	Root   string // of the mount
	Bucket string
	Dir    string // "p" or "q"
	Name   string // of the fixture, as "open-read.bob"
	Target string // ARN of the key of m-enabled
}

func (p place) bucket() string { return p.Root + "/" + p.Bucket }
func (p place) file() string   { return p.bucket() + "/" + p.Dir + "/" + p.Name }

// fixture is what an operation finds.
type fixture int

const (
	aFile   fixture = iota // with content, and user.note
	nothing                // the name is free
	empty                  // a file without content
	aDir                   // an empty directory
	aLink                  // a symbolic link
	pair                   // two files, the second named with a "2" behind
	free                   // no fixture in the bucket: a bucket of its own, or the root
)

// asking is the model's question about one principal and one bucket.
type asking struct {
	p   *principal
	k   *kind
	own string // the operation, whose object is the file
	key string // "bucket/p/name"
	dir string // "bucket/p/"
}

// first is the first refusal of gates in order.
func first(gates ...syscall.Errno) syscall.Errno {
	for _, e := range gates {
		if e != 0 {
			return e
		}
	}
	return 0
}

func (a *asking) s3(action, object string) syscall.Errno {
	if a.p.s3("s3:"+action, object) {
		return 0
	}
	return syscall.EACCES
}

// see is looking up a name: some right on it is enough.
func (a *asking) see(object string) syscall.Errno {
	bucket := object[:len(a.k.name)]
	if a.p.s3("s3:ListBucket", bucket) || a.p.s3("s3:GetObject", object) || a.p.s3("s3:PutObject", object) || a.p.s3("s3:DeleteObject", object) {
		return 0
	}
	return syscall.EACCES
}

// seeDir is looking up a directory: a right on something beneath is enough, too.
func (a *asking) seeDir(object string) syscall.Errno {
	if a.p.beneath(object) {
		return 0
	}
	return a.see(object)
}

// found walks to the file.
func (a *asking) found() syscall.Errno { return first(a.seeDir(a.dir), a.see(a.key)) }

// absent walks to a name that is free.
func (a *asking) absent() syscall.Errno {
	if e := a.seeDir(a.dir); e != 0 {
		return e
	}
	if a.see(a.key) == 0 {
		return 0
	}
	return a.seeDir(a.key + "/")
}

func (a *asking) get() syscall.Errno { return a.s3("GetObject", a.key) }
func (a *asking) put() syscall.Errno { return a.s3("PutObject", a.key) }
func (a *asking) del() syscall.Errno { return a.s3("DeleteObject", a.key) }

// use asks for actions on the KMS key of a kind: all must be allowed, then the key's state counts; that a key does not exist comes first.
func (a *asking) use(k *kind, actions ...string) syscall.Errno {
	if k.state == noKey {
		return 0
	}
	for _, action := range actions {
		if !a.p.mayUse(k, "kms:"+action, a.own) {
			return syscall.EACCES
		}
		if k.state == deleted {
			break
		}
	}
	return stateErrno[k.state]
}

func (a *asking) decrypt() syscall.Errno  { return a.use(a.k, "Decrypt") }
func (a *asking) generate() syscall.Errno { return a.use(a.k, "GenerateDataKey") }

// rewrap is UpdateObjectEncryption to the key of m-enabled.
func (a *asking) rewrap() syscall.Errno {
	target := &kinds[2]
	return first(a.use(a.k, "Decrypt", "ReEncryptFrom"), a.use(target, "Encrypt", "GenerateDataKey", "ReEncryptTo"))
}

// op is one row: what it does, and what it needs.
type op struct {
	name string
	dir  string // "q" for those who may only beneath p; otherwise p
	made fixture
	do   func(place) error
	want func(*asking) syscall.Errno
}

func opened(flags int) func(place) error {
	return func(p place) error {
		fd, err := unix.Open(p.file(), flags, 0o755)
		if err == nil {
			err = unix.Close(fd)
		}
		return err
	}
}

func on(flags int, fn func(fd int) error) func(place) error {
	return func(p place) error {
		fd, err := unix.Open(p.file(), flags, 0o755)
		if err != nil {
			return err
		}
		err = fn(fd)
		if cerr := unix.Close(fd); err == nil {
			err = cerr
		}
		return err
	}
}

func written(fd int) error {
	_, err := unix.Write(fd, []byte("text"))
	return err
}

func setsse(value string) func(place) error {
	return func(p place) error {
		v := value
		if v == "" {
			v = "aws:kms:" + p.Target
		}
		return unix.Setxattr(p.file(), "user.s3.sse", []byte(v), 0)
	}
}

func getxattr(path, name string) error {
	_, err := unix.Getxattr(path, name, make([]byte, 32<<10))
	return err
}

// ops is the table: reading and looking here, writing and names in their own files.
func ops() []op {
	all := append(lookingOps(), writingOps()...)
	all = append(all, namingOps()...)
	return append(all, bucketOps()...)
}

func lookingOps() []op {
	return []op{
		{name: "stat", do: func(p place) error { return unix.Stat(p.file(), new(unix.Stat_t)) }, want: (*asking).found},
		{name: "stat-q", dir: "q", do: func(p place) error { return unix.Stat(p.file(), new(unix.Stat_t)) }, want: (*asking).found},
		{
			name: "readdir", made: free, do: func(p place) error { _, err := os.ReadDir(p.bucket() + "/" + p.Dir); return err },
			want: func(a *asking) syscall.Errno { return first(a.seeDir(a.dir), a.s3("ListBucket", a.k.name)) },
		},
		{
			name: "open-read", do: on(unix.O_RDONLY, func(fd int) error { _, err := unix.Read(fd, make([]byte, 100)); return err }),
			want: func(a *asking) syscall.Errno { return first(a.found(), a.get(), a.decrypt()) },
		},
		{
			name: "open-read-q", dir: "q", do: opened(unix.O_RDONLY),
			want: func(a *asking) syscall.Errno { return first(a.found(), a.get(), a.decrypt()) },
		},
		{
			name: "mmap", do: on(unix.O_RDONLY, func(fd int) error {
				m, err := unix.Mmap(fd, 0, 4096, unix.PROT_READ, unix.MAP_SHARED)
				if err == nil && m[0] != '#' {
					err = syscall.EDOM
				}
				if m != nil {
					_ = unix.Munmap(m)
				}
				return err
			}),
			want: func(a *asking) syscall.Errno { return first(a.found(), a.get(), a.decrypt()) },
		},
		{
			name: "exec", do: func(p place) error { return exec.Command(p.file()).Run() },
			want: func(a *asking) syscall.Errno { return first(a.found(), a.get(), a.decrypt()) },
		},
		{
			name: "access-read", do: func(p place) error { return unix.Access(p.file(), unix.R_OK) },
			want: func(a *asking) syscall.Errno { return first(a.found(), a.get()) },
		},
		{
			name: "access-write", do: func(p place) error { return unix.Access(p.file(), unix.W_OK) },
			want: func(a *asking) syscall.Errno { return first(a.found(), a.put()) },
		},
		{
			name: "readlink", made: aLink, do: func(p place) error { _, err := os.Readlink(p.file()); return err },
			want: func(a *asking) syscall.Errno { return first(a.found(), a.get()) },
		},
		{
			name: "getxattr", do: func(p place) error { return getxattr(p.file(), "user.note") },
			want: func(a *asking) syscall.Errno { return first(a.found(), a.s3("GetObjectTagging", a.key)) },
		},
		{
			name: "listxattr", do: func(p place) error { _, err := unix.Listxattr(p.file(), make([]byte, 1000)); return err },
			want: func(a *asking) syscall.Errno { return first(a.found(), a.s3("GetObjectTagging", a.key)) },
		},
		{name: "get-sse", do: func(p place) error { return getxattr(p.file(), "user.s3.sse") }, want: (*asking).found},
		{name: "get-key-id", do: func(p place) error { return getxattr(p.file(), "user.s3.sse-kms-key-id") }, want: func(a *asking) syscall.Errno {
			if e := a.found(); e != 0 || a.k.state != noKey {
				return e
			}
			return syscall.ENODATA
		}},
		{
			name: "statfs", made: free, do: func(p place) error { return unix.Statfs(p.bucket(), new(unix.Statfs_t)) },
			want: func(*asking) syscall.Errno { return 0 },
		},
	}
}

// bucketOps are about buckets: each has a bucket of its own, whose name begins with its own.
func bucketOps() []op {
	bucketAction := func(action string) func(*asking) syscall.Errno {
		return func(a *asking) syscall.Errno { return a.s3(action, a.k.name) }
	}
	const some = `{"Version":"2012-10-17","Statement":{"Effect":"Allow","Principal":"*","Action":"s3:GetObject","Resource":"arn:aws:s3:::BUCKET/nowhere/*"}}`
	set := func(name, value string) func(place) error {
		return func(p place) error { return unix.Setxattr(p.bucket(), name, []byte(value), 0) }
	}
	setPolicy := func(p place) error {
		return set("user.s3.policy", strings.ReplaceAll(some, "BUCKET", p.Bucket))(p)
	}
	get := func(name string) func(place) error {
		return func(p place) error { return getxattr(p.bucket(), name) }
	}
	remove := func(name string) func(place) error {
		return func(p place) error { return unix.Removexattr(p.bucket(), name) }
	}
	eperm := func(*asking) syscall.Errno { return syscall.EPERM }
	return []op{
		{name: "root-readdir", made: free, do: func(p place) error { _, err := os.ReadDir(p.Root); return err }, want: func(a *asking) syscall.Errno {
			return a.s3("ListAllMyBuckets", "")
		}},
		{name: "root-create", made: free, do: func(p place) error { return os.WriteFile(p.Root+"/file", nil, 0o600) }, want: eperm},
		{name: "root-symlink", made: free, do: func(p place) error { return unix.Symlink("x", p.Root+"/link") }, want: eperm},
		{name: "bucket-stat", made: free, do: func(p place) error { return unix.Stat(p.bucket(), new(unix.Stat_t)) }, want: func(*asking) syscall.Errno { return 0 }},
		{name: "bucket-rename", made: free, do: func(p place) error { return unix.Rename(p.bucket(), p.Root+"/other-name") }, want: eperm},
		{name: "bucket-make", made: free, do: func(p place) error { return unix.Mkdir(p.bucket()+"-new", 0o755) }, want: bucketAction("CreateBucket")},
		{name: "bucket-rmdir", made: free, do: func(p place) error { return unix.Rmdir(p.bucket()) }, want: bucketAction("DeleteBucket")},
		{name: "bucket-enc-get", made: free, do: get("user.s3.encryption"), want: bucketAction("GetEncryptionConfiguration")},
		{name: "bucket-enc-set", made: free, do: set("user.s3.encryption", "aws:kms"), want: bucketAction("PutEncryptionConfiguration")},
		{name: "bucket-sse-set", made: free, do: set("user.s3.sse", "aws:kms"), want: bucketAction("PutEncryptionConfiguration")},
		{name: "bucket-enc-del", made: free, do: remove("user.s3.encryption"), want: bucketAction("PutEncryptionConfiguration")},
		{name: "bucket-policy-get", made: free, do: get("user.s3.policy"), want: bucketAction("GetBucketPolicy")},
		{name: "bucket-policy-set", made: free, do: setPolicy, want: bucketAction("PutBucketPolicy")},
		{name: "bucket-policy-del", made: free, do: remove("user.s3.policy"), want: bucketAction("DeleteBucketPolicy")},
	}
}

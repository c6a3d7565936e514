package matrix

import (
	"syscall"

	"golang.org/x/sys/unix"
)

// writingOps change content or what it is sealed under.
func writingOps() []op {
	put := func(a *asking) syscall.Errno { return first(a.found(), a.put()) }
	change := func(a *asking) syscall.Errno { return first(a.found(), a.put(), a.decrypt()) }
	renew := func(a *asking) syscall.Errno { return first(a.found(), a.put(), a.generate()) }
	born := func(a *asking) syscall.Errno { return first(a.absent(), a.put(), a.generate()) }
	rewrap := func(a *asking) syscall.Errno {
		if a.k.name == kinds[2].name { // it has that key already: only the choice is recorded
			return put(a)
		}
		return first(a.found(), a.s3("UpdateObjectEncryption", a.key), a.rewrap())
	}
	return []op{
		{name: "create", made: nothing, do: on(unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL, written), want: born},
		{name: "create-q", dir: "q", made: nothing, do: on(unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL, written), want: born},
		{name: "create-rdwr", made: nothing, do: on(unix.O_RDWR|unix.O_CREAT|unix.O_EXCL, func(fd int) error {
			if err := written(fd); err != nil {
				return err
			}
			_, err := unix.Pread(fd, make([]byte, 4), 0) // who made it holds its key until he closes
			return err
		}), want: born},
		{name: "mknod", made: nothing, do: func(p place) error { return unix.Mknod(p.file(), unix.S_IFREG|0o644, 0) }, want: born},
		{name: "open-trunc", do: on(unix.O_WRONLY|unix.O_TRUNC, written), want: renew},
		{name: "open-rdwr-trunc", do: on(unix.O_RDWR|unix.O_TRUNC, written), want: func(a *asking) syscall.Errno {
			return first(a.found(), a.get(), a.put(), a.generate())
		}},
		{name: "open-write", do: on(unix.O_WRONLY, written), want: change},
		{name: "open-rdwr", do: on(unix.O_RDWR, written), want: func(a *asking) syscall.Errno {
			return first(a.found(), a.get(), a.put(), a.decrypt())
		}},
		{name: "open-append", do: on(unix.O_WRONLY|unix.O_APPEND, written), want: change},
		{name: "open-write-empty", made: empty, do: on(unix.O_WRONLY, written), want: renew},
		{name: "truncate", do: func(p place) error { return unix.Truncate(p.file(), 5) }, want: change},
		{name: "truncate-0", do: func(p place) error { return unix.Truncate(p.file(), 0) }, want: renew},
		{name: "fallocate", do: on(unix.O_WRONLY, func(fd int) error {
			return unix.Fallocate(fd, unix.FALLOC_FL_KEEP_SIZE|unix.FALLOC_FL_PUNCH_HOLE, 0, 4)
		}), want: change},
		{name: "copy-range", made: pair, do: func(p place) error {
			from, err := unix.Open(p.file(), unix.O_RDONLY, 0)
			if err != nil {
				return err
			}
			defer func() { _ = unix.Close(from) }()
			p.Name += "2"
			return on(unix.O_WRONLY, func(fd int) error {
				_, err := unix.CopyFileRange(from, nil, fd, nil, 12, 0)
				return err
			})(p)
		}, want: func(a *asking) syscall.Errno { return first(a.found(), a.get(), a.decrypt(), a.put(), a.decrypt()) }},

		{name: "chmod", do: func(p place) error { return unix.Chmod(p.file(), 0o700) }, want: put},
		{name: "chown", do: func(p place) error { return unix.Chown(p.file(), 1, 1) }, want: put},
		{name: "utimens", do: func(p place) error { return unix.Utimes(p.file(), make([]unix.Timeval, 2)) }, want: put},
		{name: "setxattr", do: func(p place) error { return unix.Setxattr(p.file(), "user.note", []byte("y"), 0) }, want: func(a *asking) syscall.Errno {
			return first(a.found(), a.s3("PutObjectTagging", a.key))
		}},
		{name: "removexattr", do: func(p place) error { return unix.Removexattr(p.file(), "user.note") }, want: func(a *asking) syscall.Errno {
			return first(a.found(), a.s3("DeleteObjectTagging", a.key))
		}},

		{name: "rekey", do: setsse(""), want: rewrap},
		{name: "rekey-sse-s3", do: setsse("AES256"), want: func(a *asking) syscall.Errno {
			if a.k.state == noKey {
				return put(a)
			}
			return first(a.found(), a.get(), a.put(), a.decrypt())
		}},
		{name: "rekey-empty", made: empty, do: setsse(""), want: func(a *asking) syscall.Errno {
			if a.k.name == kinds[2].name {
				return put(a)
			}
			return first(a.found(), a.put(), a.use(&kinds[2], "GenerateDataKey"))
		}},
		{name: "sse-default", do: func(p place) error { return unix.Removexattr(p.file(), "user.s3.sse") }, want: put},
		{name: "sse-of-dir", made: aDir, do: setsse("AES256"), want: func(a *asking) syscall.Errno {
			return first(a.seeDir(a.dir), a.seeDir(a.key+"/"), a.s3("PutObject", a.key+"/"))
		}},
		{name: "set-key-id", do: func(p place) error { return unix.Setxattr(p.file(), "user.s3.sse-kms-key-id", []byte("x"), 0) }, want: func(a *asking) syscall.Errno {
			return first(a.found(), syscall.EPERM)
		}},
	}
}

// namingOps make, move and remove names: none of them has to do with keys.
func namingOps() []op {
	dirOf := func(a *asking) string { return a.key + "/" }
	move := func(a *asking) syscall.Errno {
		b := *a
		b.key += "-new"
		return first(a.found(), b.absent(), a.get(), a.del(), b.put())
	}
	return []op{
		{name: "unlink", do: func(p place) error { return unix.Unlink(p.file()) }, want: func(a *asking) syscall.Errno { return first(a.found(), a.del()) }},
		{name: "mkdir", made: nothing, do: func(p place) error { return unix.Mkdir(p.file(), 0o755) }, want: func(a *asking) syscall.Errno {
			return first(a.absent(), a.s3("PutObject", dirOf(a)))
		}},
		{name: "rmdir", made: aDir, do: func(p place) error { return unix.Rmdir(p.file()) }, want: func(a *asking) syscall.Errno {
			return first(a.seeDir(a.dir), a.seeDir(dirOf(a)), a.s3("DeleteObject", dirOf(a)))
		}},
		{name: "rename", do: func(p place) error { return unix.Rename(p.file(), p.file()+"-new") }, want: move},
		{name: "rename-noreplace", do: func(p place) error {
			return unix.Renameat2(unix.AT_FDCWD, p.file(), unix.AT_FDCWD, p.file()+"-new", unix.RENAME_NOREPLACE)
		}, want: move},
		{name: "rename-exchange", made: pair, do: func(p place) error {
			return unix.Renameat2(unix.AT_FDCWD, p.file(), unix.AT_FDCWD, p.file()+"2", unix.RENAME_EXCHANGE)
		}, want: func(a *asking) syscall.Errno { return first(a.found(), a.get(), a.del(), a.put()) }},
		{name: "rename-to-q", do: func(p place) error { return unix.Rename(p.file(), p.bucket()+"/q/"+p.Name) }, want: func(a *asking) syscall.Errno {
			b := *a
			b.dir = a.k.name + "/q/"
			b.key = b.dir + a.key[len(a.dir):]
			return first(a.found(), b.absent(), a.get(), a.del(), b.put())
		}},
		{name: "rename-bucket", do: func(p place) error { return unix.Rename(p.file(), p.Root+"/m-other/p/"+p.Name) }, want: func(a *asking) syscall.Errno {
			return first(a.found(), elsewhere(a).absent(), syscall.EXDEV)
		}},
		{name: "rename-dir", made: aDir, do: func(p place) error { return unix.Rename(p.file(), p.file()+"-new") }, want: func(a *asking) syscall.Errno {
			b := *a
			b.key += "-new"
			return first(a.seeDir(a.dir), a.seeDir(dirOf(a)), b.absent(),
				a.s3("GetObject", dirOf(a)), a.s3("DeleteObject", dirOf(a)), a.s3("PutObject", dirOf(&b)))
		}},
		{name: "link", do: func(p place) error { return unix.Link(p.file(), p.file()+"-new") }, want: func(a *asking) syscall.Errno {
			b := *a
			b.key += "-new"
			return first(a.found(), b.absent(), a.get(), a.put(), b.put())
		}},
		{name: "link-bucket", do: func(p place) error { return unix.Link(p.file(), p.Root+"/m-other/p/"+p.Name) }, want: func(a *asking) syscall.Errno {
			return first(a.found(), elsewhere(a).absent(), syscall.EXDEV)
		}},
		{name: "symlink", made: nothing, do: func(p place) error { return unix.Symlink("x", p.file()) }, want: func(a *asking) syscall.Errno {
			return first(a.absent(), a.put())
		}},
		{name: "mkfifo", made: nothing, do: func(p place) error { return unix.Mkfifo(p.file(), 0o600) }, want: func(a *asking) syscall.Errno {
			return first(a.absent(), a.put())
		}},
	}
}

// elsewhere is the same name in another bucket.
func elsewhere(a *asking) *asking {
	b := *a
	other := *a.k
	other.name = "m-other"
	b.k, b.dir = &other, "m-other/p/"
	b.key = b.dir + a.key[len(a.dir):]
	return &b
}

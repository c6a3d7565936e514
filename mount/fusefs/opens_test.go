package fusefs

import (
	"bytes"
	"sync"
	"testing"
	"time"

	"github.com/kmsfs/kmsfs/keystore"
	"github.com/kmsfs/kmsfs/mount"
)

// TestPreload: a small file's content is in the kernel's cache once it is open for reading, and only then; and what ends the right or
// changes the content ends that as well, although nothing was read.
func TestPreload(t *testing.T) {
	w := newWorld(t)
	w.user("alice", "AmazonS3FullAccess")
	w.bucket("box")
	admin := w.session("admin", mount.Options{})
	b, err := admin.Lookup(mount.Caller{}, mount.RootIno, "box")
	w.ok(err)
	key, err := w.keys.CreateKey(w.call("admin"), keystore.CreateKeyInput{Alias: "alias/k", Policy: []byte(`{"Version":"2012-10-17","Statement":[
 {"Effect":"Allow","Principal":{"AWS":"arn:aws:iam::` + account + `:root"},"Action":"kms:*","Resource":"*"},
 {"Effect":"Allow","Principal":{"AWS":"arn:aws:iam::` + account + `:user/alice"},"Action":"kms:Decrypt","Resource":"*"}]}`)})
	w.ok(err)
	create := func(name, sse string, content []byte) mount.Ino {
		a, h, err := admin.Create(mount.Caller{}, b.Ino, name, 0o644, mount.OpenFlags{Write: true})
		w.ok(err)
		_, err = h.WriteAt(content, 0, false)
		w.ok(err)
		w.ok(h.Close())
		if sse != "" {
			w.ok(admin.SetXattr(mount.Caller{}, a.Ino, "user.s3.sse", []byte(sse), mount.XattrEither))
		}
		return a.Ino
	}
	write := func(ino mount.Ino, text string) {
		h, err := admin.Open(mount.Caller{}, ino, mount.OpenFlags{Write: true})
		w.ok(err)
		_, err = h.WriteAt([]byte(text), 0, false)
		w.ok(err)
		w.ok(h.Close())
	}
	small := create("small", "", []byte("one"))
	create("most", "", bytes.Repeat([]byte("x"), storeAtMost))
	create("more", "", bytes.Repeat([]byte("x"), storeAtMost+1))
	create("edited", "", []byte("one"))
	create("sealed", "aws:kms:"+key.ARN, []byte("one"))
	create("last", "aws:kms:"+key.ARN, []byte("one"))
	u := tell(t, nil, w.mount("alice", Options{}))
	show := func(open, name, incore string) {
		t.Helper()
		u.want(open+" box/"+name, "ok")
		u.want("map box/"+name, "ok")
		u.want("incore box/"+name, incore)
	}
	show("open", "small", "1")
	show("open", "most", "1")
	show("open", "more", "0")
	show("edit", "edited", "0")
	show("open", "sealed", "1")

	write(small, "two")
	u.want("incore box/small", "0")
	u.want("read box/small", "two")
	u.want("close box/small", "ok")
	write(small, "six")
	u.want("cat box/small", "six")

	const second = time.Second
	w.ok(w.keys.DisableKey(w.call("admin"), key.ARN))
	u.within(second, "incore box/sealed", "0")
	u.want("read box/sealed", "EKEYREVOKED")
	u.want("open box/last", "EKEYREVOKED")
	w.ok(w.keys.EnableKey(w.call("admin"), key.ARN))
	show("open", "last", "1")
	w.ok(w.principals.Detach("alice", "AmazonS3FullAccess"))
	u.within(second, "incore box/last", "0")
	u.want("read box/last", "EACCES")
}

// TestOpens: an inode is claimed by a handle that is alone, and others wait until it is settled.
func TestOpens(t *testing.T) {
	var o opens
	const ino = mount.Ino(7)
	o.enter(ino)
	if !o.claim(ino) {
		t.Fatal("a single handle cannot claim")
	}
	entered := make(chan struct{})
	var others sync.WaitGroup
	for range 3 {
		others.Go(func() {
			o.enter(ino)
			entered <- struct{}{}
		})
	}
	o.enter(ino + 64) // another inode of the shard does not wait
	select {
	case <-entered:
		t.Fatal("entered while it was claimed")
	default:
	}
	o.settle(ino)
	for range 3 {
		<-entered
	}
	others.Wait()
	if o.claim(ino) {
		t.Error("claimed with others there")
	}
	for range 3 {
		o.leave(ino)
	}
	if !o.claim(ino) {
		t.Error("the last handle cannot claim")
	}
	o.settle(ino)
	o.leave(ino)
	o.leave(ino + 64)
	for i := range o {
		if len(o[i].m) != 0 {
			t.Errorf("shard %d keeps %v", i, o[i].m)
		}
	}
}

// TestCopier: who copies inside the daemon gets no content with the files that it opens, until it reads.
func TestCopier(t *testing.T) {
	w := newWorld(t)
	w.bucket("box")
	admin := w.session("admin", mount.Options{})
	b, err := admin.Lookup(mount.Caller{}, mount.RootIno, "box")
	w.ok(err)
	for _, name := range []string{"one", "two", "three", "four"} {
		_, h, err := admin.Create(mount.Caller{}, b.Ino, name, 0o644, mount.OpenFlags{Write: true})
		w.ok(err)
		_, err = h.WriteAt([]byte(name), 0, false)
		w.ok(err)
		w.ok(h.Close())
	}
	u := tell(t, nil, w.mount("admin", Options{}))
	show := func(name, incore string) {
		t.Helper()
		u.want("open box/"+name, "ok")
		u.want("map box/"+name, "ok")
		u.want("incore box/"+name, incore)
	}
	show("one", "1")
	u.want("copy box/one box/copy", "3")
	show("two", "0")
	u.want("copy box/two box/copy2", "3")
	show("three", "0")
	u.want("read box/three", "three")
	show("four", "1")
	u.want("cat box/copy", "one")
	u.want("cat box/copy2", "two")
}

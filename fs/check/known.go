package check

import (
	"encoding/hex"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/kmsfs/kmsfs/fs/meta"
)

// What a repair cannot mend is written down, so that the next check can tell it from what is new: a symbolic link in lost+found of the bucket
// says in its target what is lost, since when, and has a keyed hash of each problem, which only a repair can make. Nothing else
// about the file changes: who reads it is still told what it lacks. Where the problem changes it is a new one. Who removes the link makes
// the check report the loss again; who removes the file, or puts it back, may remove the link.

const (
	knownWords = "known to be lost since "
	knownMost  = 3000 // bytes of hashes in one target
	knownText  = 900  // bytes of words
)

// digest stands for a problem in a record.
func (c *checker) digest(p *Problem) string {
	h := c.vol.Rows().Mark(fmt.Sprintf("%s\x00%d\x00%s", p.Kind, p.Ino, p.Message))
	return hex.EncodeToString(h[:8])
}

// remember reads what a symbolic link says of losses, if it is a record of them.
func (c *checker) remember(target string) {
	if !strings.HasPrefix(target, knownWords) {
		return
	}
	_, hashes, _ := strings.Cut(target, " [")
	for h := range strings.FieldsSeq(strings.TrimSuffix(hashes, "]")) {
		c.known[h] = true
	}
}

// recognise marks the problems that an earlier repair wrote down.
func (c *checker) recognise() {
	for i := range c.rep.Problems {
		if p := &c.rep.Problems[i]; len(c.known) > 0 && c.known[c.digest(p)] {
			p.Known = true
			c.rep.Known++
		}
	}
}

// record writes down what is left of the problems after a repair.
func (c *checker) record() error {
	if c.rep.Repaired+c.rep.Known == c.rep.Total() || c.ended {
		return nil
	}
	o := c.o
	o.Data, o.Repair = false, false
	after, err := run(c.ctx, c.vol, c.extents, o)
	if err != nil {
		return err
	}
	left := slices.DeleteFunc(slices.Clone(c.rep.Problems[c.dataFrom:c.dataEnd]), func(p Problem) bool { return p.Known })
	left = append(left, after.rep.Problems...)
	byIno := map[meta.Ino][]Problem{}
	var order []meta.Ino
	for _, p := range left {
		if p.Known || p.Ino == 0 {
			continue
		}
		if byIno[p.Ino] == nil {
			order = append(order, p.Ino)
		}
		byIno[p.Ino] = append(byIno[p.Ino], p)
	}
	for _, ino := range order {
		if err := after.recordOf(c.rep, ino, byIno[ino]); err != nil {
			c.rep.add(Unrepairable, ino, "what is lost could not be written down: %v", err)
		}
	}
	if !after.rep.Complete {
		return nil
	}
	return c.vol.RecountQuotas(c.ctx)
}

// recordOf writes down the problems of one inode, and says so in the report.
func (c *checker) recordOf(rep *Report, ino meta.Ino, problems []Problem) error {
	bucket, ok := c.bucketOf(ino)
	if !ok {
		return nil // there is no place for it: it stays in the report
	}
	text := fmt.Sprintf("%s%s: inode %d, %s: %s: %s", knownWords, time.Unix(0, c.o.Now).UTC().Format(time.RFC3339), ino, c.called(ino), problems[0].Kind, problems[0].Message)
	if more := len(problems) - 1; more > 0 {
		text = fmt.Sprintf("%.*s; and %d more", knownText-20, text, more)
	}
	text = strings.ToValidUTF8(fmt.Sprintf("%.*s", knownText, strings.ReplaceAll(text, " [", " (")), "")
	const each = 17 // a hash and a space
	for some := range slices.Chunk(problems, knownMost/each) {
		var hashes []string
		for i := range some {
			hashes = append(hashes, c.digest(&some[i]))
		}
		number, err := c.vol.NewIno()
		if err != nil {
			return err
		}
		name := fmt.Sprintf("loss-%d-%d", ino, number)
		if err := c.leave(bucket, number, name, text+" ["+strings.Join(hashes, " ")+"]", nil); err != nil {
			return err
		}
		for _, p := range some {
			if at := slices.IndexFunc(rep.Problems, func(x Problem) bool { return x.Kind == p.Kind && x.Ino == p.Ino && x.Message == p.Message }); at >= 0 {
				rep.Problems[at].Record = LostFound + "/" + name + " of its bucket"
			}
		}
		rep.Recorded += len(some)
	}
	return nil
}

// bucketOf is the bucket in whose lost+found an inode's losses are written down: where it is, or else where an entry names it.
func (c *checker) bucketOf(ino meta.Ino) (meta.Ino, bool) {
	var bucket meta.Ino
	if n := c.inodes[ino]; n != nil {
		bucket = n.row.Bucket
	} else if d := c.damaged[ino]; d != nil && len(d.entries) > 0 && c.inodes[d.entries[0].Parent] != nil {
		bucket = c.inodes[d.entries[0].Parent].row.Bucket
	}
	b := c.inodes[bucket]
	return bucket, b != nil && bucket != meta.RootIno && b.row.Type == meta.Directory && len(b.entries) > 0
}

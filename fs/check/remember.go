package check

import (
	"fmt"
	"maps"
	"slices"

	"github.com/kmsfs/kmsfs/fs/meta"
)

// A lost entry is remembered twice: the inode has its name in its row, and the directory accounts for it. If what the inodes remember is exactly
// what the directory lacks, its entries are known to the last bit, and a repair can put them back where they were.

// remembered finds the entries that are not there and are known. From here on they count as if they were.
func (c *checker) remembered() {
	db := c.vol.Rows()
	lost := map[meta.Ino][]meta.Dentry{}
	for _, ino := range slices.Sorted(maps.Keys(c.inodes)) {
		n := c.inodes[ino]
		for _, l := range n.row.Links {
			dir := c.inodes[l.Parent]
			there := slices.ContainsFunc(n.entries, func(e link) bool { return e.Link == l })
			if !there && dir != nil && dir.row.Type == meta.Directory && dir.set != dir.row.Rows {
				lost[l.Parent] = append(lost[l.Parent], meta.Dentry{Name: l.Name, Ino: ino, Type: n.row.Type})
			}
		}
	}
	for _, parent := range slices.Sorted(maps.Keys(lost)) {
		dir, entries := c.inodes[parent], lost[parent]
		set := dir.set
		for _, d := range entries {
			set.Add(db.EntryRow(parent, d))
		}
		if set != dir.row.Rows {
			continue
		}
		dir.set = set
		at := c.rep.add(LostEntry, parent, "%s; inodes and directory remember exactly that", lacks(entries))
		c.fixes = append(c.fixes, fix{kind: restore, ino: parent, entries: entries, problem: at})
		for _, d := range entries {
			n := c.inodes[d.Ino]
			n.entries = append(n.entries, link{meta.Link{Parent: parent, Name: d.Name}})
			if d.Type == meta.Directory {
				dir.subdirs++
			}
		}
	}
}

func lacks(entries []meta.Dentry) string {
	s := fmt.Sprintf("it lacks the entry %q of inode %d", entries[0].Name, entries[0].Ino)
	if more := len(entries) - 1; more > 0 {
		s += fmt.Sprintf(" and %d more", more)
	}
	return s
}

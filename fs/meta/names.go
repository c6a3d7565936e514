package meta

// What a transaction does to directories, for who keeps their entries in memory, and what it need not look for if he does.

// NameChange is an entry that a transaction wrote or removed.
type NameChange struct {
	Dir  Ino
	Hash uint64 // of the name
	Tie  byte   // above 0: another name of the directory has this hash
	Dentry
	Removed bool
}

// NameChanges are the entries that were written and removed so far, in this order.
func (t *Tx) NameChanges() []NameChange { return t.names }

func (t *Tx) nameChanged(dir Ino, key []byte, d Dentry, removed bool) {
	t.names = append(t.names, NameChange{Dir: dir, Hash: u64(key[9:17]), Tie: key[17], Dentry: d, Removed: removed})
}

// NameHash is the hash of a name, by which it is found.
func (d *DB) NameHash(name string) uint64 { return d.nameHash(name) }

// Mark is a keyed hash of a text, which nobody can make who does not have the volume's key.
func (d *DB) Mark(text string) [32]byte { return d.names.sum([]byte{'m'}, []byte(text)) }

// RemoveDentryAlone is RemoveDentry of an entry of which the caller knows that it is there and that no other name of the directory has its
// hash.
func (t *Tx) RemoveDentryAlone(dir *Inode, d Dentry) {
	t.dropDentry(dir, dentryKey(dir.Ino, t.db.nameHash(d.Name), 0), d)
}

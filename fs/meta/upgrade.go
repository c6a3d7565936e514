package meta

import (
	"bytes"
	"context"
	"errors"
	"maps"
	"slices"

	"github.com/kmsfs/kmsfs/fs/kv"
)

// UpgradeKeyUses writes the index of today from that of volumes of version 1, whose rows stay; where one of those cannot be read, from the
// inodes, of which each says under which key it is. It can be run again. Nothing else may change the volume meanwhile.
func (d *DB) UpgradeKeyUses() (rebuilt bool, err error) {
	err = d.upgradeKeyUses()
	if !errors.Is(err, ErrCorrupt) && !errors.Is(err, kv.ErrCorrupt) {
		return false, err
	}
	return true, d.rebuildKeyUses()
}

// rebuildKeyUses writes the index from the inodes. One whose row cannot be read cannot be opened either, and is left out.
func (d *DB) rebuildKeyUses() error {
	need := map[KeyUse]bool{}
	err := d.View(func(r *Reader) error {
		return r.EachUse(func(u Use, err error) error {
			if err == nil && u.Method == SSEKMS {
				need[KeyUse{d.keyHash(string(u.KeyARN)), useBlock(u.Ino)}] = true
			}
			return nil
		})
	})
	if err != nil {
		return err
	}
	for some := range slices.Chunk(slices.Collect(maps.Keys(need)), useAtOnce) {
		if err := d.setUses(some); err != nil {
			return err
		}
	}
	return nil
}

func (d *DB) setUses(all []KeyUse) error {
	return d.Update(func(t *Tx) error {
		for _, u := range all {
			t.setUse(u)
		}
		t.makesSpace()
		return nil
	})
}

func (d *DB) upgradeKeyUses() error {
	for from, more := []byte{kindFileUse}, true; more; {
		var need []KeyUse
		err := d.View(func(r *Reader) error {
			more = false
			return r.r.Scan(from, []byte{kindFileUse + 1}, func(k, _ []byte) (bool, error) {
				if len(k) != 25 {
					return false, ErrCorrupt
				}
				u := KeyUse{KeyHash(k[1:17]), useBlock(Ino(u64(k[17:25])))}
				if len(need) > 0 && need[len(need)-1] == u {
					return true, nil
				}
				if len(need) == useAtOnce {
					from, more = bytes.Clone(k), true
					return false, nil
				}
				need = append(need, u)
				return true, nil
			})
		})
		if err == nil && len(need) > 0 {
			err = d.setUses(need)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// DropFileUses deletes the rows of the index that volumes of version 1 had, in bites, and sees each once: an engine still steps over what was
// deleted a moment ago.
func (d *DB) DropFileUses(ctx context.Context) error {
	for from := []byte{kindFileUse}; ; {
		var keys [][]byte
		err := d.View(func(r *Reader) error {
			return kv.ScanDamaged(r.r, from, []byte{kindFileUse + 1}, func(k, _ []byte, _ error) (bool, error) {
				keys = append(keys, bytes.Clone(k))
				return len(keys) < 16*dropBite, nil
			})
		})
		if err != nil || len(keys) == 0 {
			return err
		}
		from = append(keys[len(keys)-1], 0)
		for some := range slices.Chunk(keys, dropBite) {
			err := d.Update(func(t *Tx) error {
				for _, k := range some {
					t.t.Delete(k)
				}
				return ctx.Err()
			})
			if err != nil {
				return err
			}
		}
	}
}

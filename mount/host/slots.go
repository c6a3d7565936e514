package host

import (
	"fmt"

	"github.com/kmsfs/kmsfs/keystore/rootkey"
)

// The unlock slots belong to who could read the root key anyway: root and the
// store's owner. Key files and credentials are read by the caller, with his
// rights: a confined daemon opens nothing outside its store.

func (c *call) unlockAdd(a UnlockAddArgs) (any, error) {
	secret, err := rootkey.SecretOf(rootkey.Kind(a.Kind), a.Name, a.Secret)
	clear(a.Secret)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errArguments, err)
	}
	defer secret.Wipe()
	c.d.slots.Lock()
	defer c.d.slots.Unlock()
	return rootkey.AddSlot(c.d.cfg.Dir, c.d.cfg.Root, secret, c.d.cfg.Clock())
}

func (c *call) unlockRemove(a UnlockRemoveArgs) (any, error) {
	c.d.slots.Lock()
	defer c.d.slots.Unlock()
	return rootkey.RemoveSlot(c.d.cfg.Dir, c.d.cfg.Root, a.ID)
}

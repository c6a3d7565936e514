package host

import (
	"fmt"

	"github.com/kmsfs/kmsfs/keystore/rootkey"
)

// The unlock slots belong to who could read the root key anyway: root and the
// store's owner. Paths and directories are opened by this process, which is
// one of the two.

func (c *call) unlockAdd(a UnlockAddArgs) (any, error) {
	secret, err := c.d.newSecret(a)
	clear(a.Passphrase)
	if err != nil {
		return nil, err
	}
	defer secret.Wipe()
	c.d.slots.Lock()
	defer c.d.slots.Unlock()
	return rootkey.AddSlot(c.d.cfg.Dir, c.d.cfg.Root, secret, c.d.cfg.Clock())
}

func (d *Daemon) newSecret(a UnlockAddArgs) (rootkey.Secret, error) {
	switch rootkey.Kind(a.Kind) {
	case rootkey.KindKeyFile:
		if a.Path == "" {
			return rootkey.Secret{}, fmt.Errorf("%w: no path of the key file", errArguments)
		}
		if a.Create {
			return rootkey.NewKeyFile(d.cfg.Dir, a.Path)
		}
		return rootkey.KeyFile(d.cfg.Dir, a.Path)
	case rootkey.KindPassphrase:
		return rootkey.Passphrase(a.Passphrase, rootkey.Argon2{})
	case rootkey.KindCredential:
		return rootkey.Credential(a.Directory, a.Credential)
	}
	return rootkey.Secret{}, fmt.Errorf("%w: unknown kind of slot %.64q", errArguments, a.Kind)
}

func (c *call) unlockRemove(a UnlockRemoveArgs) (any, error) {
	c.d.slots.Lock()
	defer c.d.slots.Unlock()
	return rootkey.RemoveSlot(c.d.cfg.Dir, c.d.cfg.Root, a.ID)
}

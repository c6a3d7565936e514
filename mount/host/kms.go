package host

// KMSSocketFile is the Unix socket in the store's directory on which the KMS
// wire protocol is spoken.
const KMSSocketFile = "kms.sock"

// PrincipalFor is the principal that a uid acts as, by the same rules as for
// commands: a name must be bound to the uid, unless root or the owner gives it.
func (d *Daemon) PrincipalFor(uid uint32, name string) (string, error) {
	return d.principalFor(uid, name)
}

// ServesKMS has the status tell the TCP address on which KMS calls are taken.
func (d *Daemon) ServesKMS(address string) { d.kms.Store(&address) }

func (d *Daemon) kmsAddress() string {
	if a := d.kms.Load(); a != nil {
		return *a
	}
	return ""
}

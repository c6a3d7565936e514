package host

import "time"

// KeyCreateArgs make a key.
type KeyCreateArgs struct {
	Alias       string            `json:"alias,omitempty"`
	Description string            `json:"description,omitempty"`
	Admins      []string          `json:"admins,omitempty"` // principal names or ARNs
	Users       []string          `json:"users,omitempty"`
	Policy      Document          `json:"policy"`
	Bypass      bool              `json:"bypassLockoutCheck,omitempty"`
	External    bool              `json:"external,omitempty"` // its material is imported
	Tags        map[string]string `json:"tags,omitempty"`
}

// KeyInfo describes a key in the words of DescribeKey.
type KeyInfo struct {
	KeyID        string     `json:"KeyId"`
	ARN          string     `json:"Arn"`
	Aliases      []string   `json:"Aliases"`
	State        string     `json:"KeyState,omitempty"`
	Manager      string     `json:"KeyManager,omitempty"`
	Description  string     `json:"Description,omitempty"`
	Created      *time.Time `json:"CreationDate,omitempty"`
	DeletionDate *time.Time `json:"DeletionDate,omitempty"`
	Origin       string     `json:"Origin,omitempty"`  // AWS_KMS, EXTERNAL
	Expires      *time.Time `json:"ValidTo,omitempty"` // of imported material
	MaterialID   string     `json:"CurrentKeyMaterialId,omitempty"`
	Rotations    int        `json:"Rotations,omitempty"`
	Denied       string     `json:"Denied,omitempty"` // why the caller may see no more
}

// KeyDeletionArgs schedule a deletion; Days == 0 means the default, 30. Where
// Files is given, it must be the number of files that the key's loss takes.
type KeyDeletionArgs struct {
	Key   string `json:"key"`
	Days  int    `json:"days,omitempty"`
	Files *int   `json:"files,omitempty"`
}

// KeyPolicyArgs read or set a key's policy.
type KeyPolicyArgs struct {
	Key    string   `json:"key"`
	Policy Document `json:"policy"`
	Bypass bool     `json:"bypassLockoutCheck,omitempty"`
}

// KeyFilesArgs ask for the files under a key; Count for their number alone.
type KeyFilesArgs struct {
	Key   string `json:"key"`
	Count bool   `json:"count,omitempty"`
}

// KeyFile is one file under a key: an item of key.files. Hidden and Nameless
// count the files whose names the caller may not see, and those that are open
// and have none; they are in the last item.
type KeyFile struct {
	Path     string `json:"path,omitempty"`
	Ino      uint64 `json:"inode,omitempty"`
	Hidden   int    `json:"hidden,omitempty"`
	Nameless int    `json:"nameless,omitempty"`
}

// AliasArgs name an alias and, for create and update, its key.
type AliasArgs struct {
	Name string `json:"name"`
	Key  string `json:"key,omitempty"`
}

// AliasInfo is one alias.
type AliasInfo struct {
	Name string `json:"AliasName"`
	ARN  string `json:"AliasArn"`
	Key  string `json:"TargetKeyId"`
}

// GrantArgs make a grant.
type GrantArgs struct {
	Key        string            `json:"key"`
	Name       string            `json:"name,omitempty"`
	Grantee    string            `json:"grantee"`
	Retiring   string            `json:"retiring,omitempty"`
	Operations []string          `json:"operations"`
	Subset     map[string]string `json:"encryptionContextSubset,omitempty"`
	Equals     map[string]string `json:"encryptionContextEquals,omitempty"`
}

// GrantInfo is one grant.
type GrantInfo struct {
	ID         string            `json:"GrantId"`
	Name       string            `json:"Name,omitempty"`
	Key        string            `json:"KeyId"`
	Grantee    string            `json:"GranteePrincipal"`
	Retiring   string            `json:"RetiringPrincipal,omitempty"`
	Operations []string          `json:"Operations"`
	Subset     map[string]string `json:"EncryptionContextSubset,omitempty"`
	Equals     map[string]string `json:"EncryptionContextEquals,omitempty"`
	Token      string            `json:"GrantToken,omitempty"` // of grant.create
}

// GrantRevokeArgs name a grant of a key.
type GrantRevokeArgs struct {
	Key   string `json:"key"`
	Grant string `json:"grant"`
}

// RekeyArgs give files another key.
type RekeyArgs struct {
	From     string `json:"from,omitempty"`
	To       string `json:"to"`
	Paths    []Path `json:"paths,omitempty"`
	DryRun   bool   `json:"dryRun,omitempty"`
	Rewrite  bool   `json:"rewrite,omitempty"`  // seal the content anew as well
	List     bool   `json:"list,omitempty"`     // an item for every file
	Progress bool   `json:"progress,omitempty"` // items that count, some each second
}

// RekeyItem is what happened to one file, or how far the work is.
type RekeyItem struct {
	Path     string         `json:"path,omitempty"`
	From     string         `json:"from,omitempty"` // key ARN, or AES256
	To       string         `json:"to,omitempty"`
	Error    string         `json:"error,omitempty"`
	Progress *RekeyProgress `json:"progress,omitempty"`
}

// RekeyProgress says how far the work is.
type RekeyProgress struct {
	Done    int     `json:"done"`
	Total   int     `json:"total,omitempty"` // 0: not known, as of paths
	Failed  int     `json:"failed"`
	Bytes   int64   `json:"rewrittenBytes,omitempty"`
	Seconds float64 `json:"seconds"`
}

// RekeyResult counts them, and tells what is left under the old key where all of its files were asked for.
type RekeyResult struct {
	Changed  int          `json:"changed"`
	Same     int          `json:"unchanged"`
	Failed   int          `json:"failed"`
	Hidden   int          `json:"hidden,omitempty"`
	Bytes    int64        `json:"rewrittenBytes,omitempty"`
	Seconds  float64      `json:"seconds"`
	DryRun   bool         `json:"dryRun,omitempty"`
	Left     *KeyUse      `json:"left,omitempty"`     // of the old key, after looking at every inode of the store
	Defaults []KeyDefault `json:"defaults,omitempty"` // what still gives the old key to new files
}

// KeyUse counts what a key's loss would take.
type KeyUse struct {
	Files    int `json:"files"`
	Nameless int `json:"nameless,omitempty"` // open, and deleted or not linked yet
}

// Total is all of them.
func (u KeyUse) Total() int { return u.Files + u.Nameless }

// KeyDefault is a bucket or directory whose default encryption is under a key.
type KeyDefault struct {
	Path  string `json:"path"`
	Value string `json:"value"` // as written
}

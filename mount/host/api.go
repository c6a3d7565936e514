package host

import (
	"encoding/json"
	"time"

	"github.com/kmsfs/kmsfs/principals/policy"
)

// The commands that Dispatch knows. The command line uses the same names.
const (
	CmdStatus = "status"
	CmdStop   = "stop"
	CmdMount  = "mount"
	CmdUmount = "umount"

	CmdUnlockAdd    = "unlock.add"
	CmdUnlockRemove = "unlock.remove"

	CmdBucketCreate     = "bucket.create"
	CmdBucketList       = "bucket.list"
	CmdBucketShow       = "bucket.show"
	CmdBucketDelete     = "bucket.delete"
	CmdBucketEncryption = "bucket.encryption"
	CmdBucketPolicy     = "bucket.policy"

	CmdKeyCreate           = "key.create"
	CmdKeyList             = "key.list"
	CmdKeyShow             = "key.show"
	CmdKeyEnable           = "key.enable"
	CmdKeyDisable          = "key.disable"
	CmdKeyRotate           = "key.rotate"
	CmdKeyScheduleDeletion = "key.schedule-deletion"
	CmdKeyCancelDeletion   = "key.cancel-deletion"
	CmdKeyPolicy           = "key.policy"
	CmdKeyFiles            = "key.files"

	CmdAliasCreate = "alias.create"
	CmdAliasUpdate = "alias.update"
	CmdAliasDelete = "alias.delete"
	CmdAliasList   = "alias.list"

	CmdGrantCreate = "grant.create"
	CmdGrantList   = "grant.list"
	CmdGrantRevoke = "grant.revoke"

	CmdRekey = "rekey"

	CmdPrincipalCreate = "principal.create"
	CmdPrincipalList   = "principal.list"
	CmdPrincipalShow   = "principal.show"
	CmdPrincipalDelete = "principal.delete"
	CmdPrincipalAttach = "principal.attach"
	CmdPrincipalDetach = "principal.detach"

	CmdPolicyDiff  = "policy.diff"
	CmdPolicyCheck = "policy.check"

	CmdWhy  = "why"
	CmdStat = "stat"

	CmdAuditQuery  = "audit.query"
	CmdAuditTail   = "audit.tail"
	CmdAuditVerify = "audit.verify"
	CmdAuditKeep   = "audit.keep"
)

// NoArgs are the arguments of a command that has none.
type NoArgs struct{}

// NameArgs name one bucket or principal.
type NameArgs struct {
	Name string `json:"name"`
}

// KeyArgs name one key: an id, an ARN or alias/NAME.
type KeyArgs struct {
	Key string `json:"key"`
}

// Document is a policy or configuration, as text. Set says that it was given.
type Document struct {
	Set  bool   `json:"set"`
	Text string `json:"text,omitempty"`
}

// MountArgs ask for a mount.
type MountArgs struct {
	Dir       string   `json:"dir"` // absolute
	Principal string   `json:"principal,omitempty"`
	Options   []string `json:"options,omitempty"`
	Wait      bool     `json:"wait,omitempty"` // answer with a MountInfo item when mounted, and finally when the mount has ended; hanging up unmounts
}

// MountInfo describes one mount.
type MountInfo struct {
	Dir       string    `json:"dir"`
	Principal string    `json:"principal"`
	UID       uint32    `json:"uid"`
	GID       uint32    `json:"gid"`
	Options   []string  `json:"options,omitempty"`
	Since     time.Time `json:"since"`
	By        uint32    `json:"mountedByUid"`

	AllowOther bool `json:"allowOther,omitempty"` // every local user enters it as the principal
}

// UmountArgs end a mount.
type UmountArgs struct {
	Dir  string `json:"dir"` // absolute
	Lazy bool   `json:"lazy,omitempty"`
}

// Status describes the daemon and its store.
type Status struct {
	Running    bool        `json:"running"`
	Store      string      `json:"store"`
	StoreID    string      `json:"storeId"`
	Account    string      `json:"account"`
	Region     string      `json:"region"`
	PID        int         `json:"pid,omitempty"`
	Since      *time.Time  `json:"since,omitempty"`
	Persistent bool        `json:"persistent"`
	Mounts     []MountInfo `json:"mounts"`
	Space      *Space      `json:"space,omitempty"`
	KMS        string      `json:"kmsAddress,omitempty"` // host:port of the KMS endpoint
	Goroutines int         `json:"goroutines,omitempty"` // of the daemon
	KeysLocked bool        `json:"keysLocked"`           // all keys of the daemon lie in memory that is not swapped out
}

// Space is how full the store is, in bytes.
type Space struct {
	Total  uint64 `json:"total"`
	Free   uint64 `json:"free"`
	Inodes uint64 `json:"inodesGiven"`    // inode numbers that were handed out, in blocks; none is given twice
	Held   *Held  `json:"held,omitempty"` // for root and the store's owner
}

// Held is what the store's own files hold, in bytes on disk.
type Held struct {
	Live     int64 `json:"liveBytes"`     // content
	Dead     int64 `json:"deadBytes"`     // content that was removed or replaced and is not freed yet
	Metadata int64 `json:"metadataBytes"` // rows and their log
}

// UnlockAddArgs describe a slot to add. The caller must be the store's owner.
type UnlockAddArgs struct {
	Kind   string `json:"kind"`           // key-file, passphrase, systemd-credential
	Name   string `json:"name,omitempty"` // of a key file its absolute path, of a credential its name
	Secret []byte `json:"secret"`         // what is in it, or the passphrase
}

// UnlockRemoveArgs name a slot by its id or a beginning of it.
type UnlockRemoveArgs struct {
	ID string `json:"id"`
}

// BucketCreateArgs make a bucket.
type BucketCreateArgs struct {
	Name string `json:"name"`
	SSE  string `json:"sse,omitempty"` // as user.s3.sse; "" = AES256
}

// BucketInfo describes a bucket as far as the caller may see it.
type BucketInfo struct {
	Name       string          `json:"name"`
	Created    *time.Time      `json:"created,omitempty"`
	SSE        string          `json:"sse,omitempty"`
	Encryption json.RawMessage `json:"encryption,omitempty"`
	Policy     json.RawMessage `json:"policy,omitempty"`
	Quota      string          `json:"quota,omitempty"`
}

// BucketEncryptionArgs read (Value == "") or set a bucket's default.
type BucketEncryptionArgs struct {
	Name  string `json:"name"`
	Value string `json:"value,omitempty"`
}

// BucketPolicyArgs read or set a bucket's policy; an empty text deletes it.
type BucketPolicyArgs struct {
	Name   string   `json:"name"`
	Policy Document `json:"policy"`
}

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

// Path is a path as it was typed and as the caller's working directory makes
// it absolute: on a mount the second counts, otherwise the first is bucket/key.
type Path struct {
	Typed    string `json:"typed"`
	Absolute string `json:"absolute,omitempty"`
}

// PolicyArg is a policy to attach: by name, or a document to store under it.
type PolicyArg struct {
	Name string   `json:"name"`
	Text Document `json:"text"`
}

// PrincipalCreateArgs make a principal.
type PrincipalCreateArgs struct {
	Name     string      `json:"name"`
	UIDs     []uint32    `json:"uids,omitempty"`
	Policies []PolicyArg `json:"policies,omitempty"`
}

// PrincipalPolicyArgs attach or detach.
type PrincipalPolicyArgs struct {
	Name   string    `json:"name"`
	Policy PolicyArg `json:"policy"`
}

// PrincipalInfo describes a principal.
type PrincipalInfo struct {
	Name      string                     `json:"name"`
	ID        string                     `json:"id"`
	ARN       string                     `json:"arn"`
	UIDs      []uint32                   `json:"uids"`
	Policies  []string                   `json:"policies"`
	Groups    []string                   `json:"groups,omitempty"`
	Boundary  string                     `json:"boundary,omitempty"`
	Created   time.Time                  `json:"created"`
	Documents map[string]json.RawMessage `json:"documents,omitempty"` // of attached policies that are not built in
}

// WhyArgs ask for the evaluation of one operation.
type WhyArgs struct {
	Path      Path   `json:"path"`
	Principal string `json:"principal,omitempty"`
	Op        string `json:"op"`
}

// WhyResult is the answer: every gate in order, the first refusal decides.
type WhyResult struct {
	Principal string    `json:"principal"`
	Path      string    `json:"path"`
	Op        string    `json:"op"`
	Allowed   bool      `json:"allowed"`
	Gates     []WhyGate `json:"gates"`
	Note      string    `json:"note,omitempty"`
}

// WhyGate is one decision.
type WhyGate struct {
	Action    string `json:"action"`
	Resource  string `json:"resource"`
	Allowed   bool   `json:"allowed"`
	Effect    string `json:"effect"`
	Source    string `json:"source,omitempty"`
	Policy    string `json:"policy,omitempty"`
	Sid       string `json:"sid,omitempty"`
	Statement int    `json:"statement,omitempty"`
	Reason    string `json:"reason"`
	// Change is what would have to change, of a refusal: each line by itself
	// takes it away, and names the command.
	Change []string `json:"change,omitempty"`
}

// StatArgs name files.
type StatArgs struct {
	Paths []Path `json:"paths"`
}

// StatInfo describes one file, directory or bucket.
type StatInfo struct {
	Path       string            `json:"path"`
	Type       string            `json:"type"`
	Inode      uint64            `json:"inode"`
	Size       uint64            `json:"size"`
	Mode       string            `json:"mode"`
	UID        uint32            `json:"uid"`
	GID        uint32            `json:"gid"`
	Links      uint32            `json:"links"`
	Modified   time.Time         `json:"modified"`
	Names      []string          `json:"names,omitempty"`
	SSE        string            `json:"sse,omitempty"`
	KeyARN     string            `json:"kmsKeyArn,omitempty"`
	MaterialID string            `json:"keyMaterialId,omitempty"`
	BucketKey  string            `json:"bucketKeyEnabled,omitempty"`
	Context    map[string]string `json:"encryptionContext,omitempty"`
	Error      string            `json:"error,omitempty"`
}

// AuditArgs filter the audit log.
type AuditArgs struct {
	Key       string `json:"key,omitempty"`
	Principal string `json:"principal,omitempty"`
	Denied    bool   `json:"denied,omitempty"`
	Follow    bool   `json:"follow,omitempty"`
	Last      int    `json:"last,omitempty"` // tail: how many earlier events
}

// PolicyDiffArgs compare a key's policy with a document.
type PolicyDiffArgs struct {
	Key  string `json:"key"`
	Text string `json:"text"`
}

// AuditKeepArgs change how the audit log is kept. What is nil stays; 0 lifts a limit. Ages are in seconds.
type AuditKeepArgs struct {
	Strict      *bool  `json:"strict,omitempty"`
	MaxFileSize *int64 `json:"maxFileSize,omitempty"`
	MaxFileAge  *int64 `json:"maxFileAge,omitempty"`
	KeepSize    *int64 `json:"keepSize,omitempty"`
	KeepAge     *int64 `json:"keepAge,omitempty"`
}

// AuditKeep is how the audit log is kept. Sizes are in bytes, ages in seconds; 0 means without limit.
type AuditKeep struct {
	Strict      bool  `json:"strict"`
	MaxFileSize int64 `json:"maxFileSize"`
	MaxFileAge  int64 `json:"maxFileAge"`
	KeepSize    int64 `json:"keepSize"`
	KeepAge     int64 `json:"keepAge"`
}

// AuditReport says whether the log is as it was written.
type AuditReport struct {
	Events uint64   `json:"events"`
	First  uint64   `json:"first"` // number of the oldest event that is kept
	Files  int      `json:"files"`
	Torn   []string `json:"torn,omitempty"` // ends of files that a crash left; harmless
	Breaks []string `json:"breaks"`
}

// MaxTail is how many earlier events audit.tail may begin with.
const MaxTail = 100000

// PolicyChange is a right that a principal would gain (Now) or lose.
type PolicyChange struct {
	Principal string `json:"principal"`
	Action    string `json:"action"`
	Now       bool   `json:"allowed"`
	Reason    string `json:"reason"`
}

// PolicyDiff is what a new key policy would change: rights, and the files that
// somebody can read or not any more.
type PolicyDiff struct {
	Key     string         `json:"key"` // ARN
	Changes []PolicyChange `json:"changes"`
	Files   int            `json:"files"` // under the key
	Access  []FileAccess   `json:"access"`
}

// FileAccess counts the files under a key that a principal may read now, and
// those that he gains and loses. Both gates count: s3:GetObject and kms:Decrypt.
type FileAccess struct {
	Principal string `json:"principal"`
	Before    int    `json:"before"`
	Gained    int    `json:"gained"`
	Lost      int    `json:"lost"`
}

// PolicyCheckArgs have a document looked through. Key is the key that a key
// policy is meant for, if it exists already.
type PolicyCheckArgs struct {
	Kind string `json:"kind"` // identity, key, bucket
	Text string `json:"text"`
	Key  string `json:"key,omitempty"`
}

// PolicyCheckResult is what was found.
type PolicyCheckResult struct {
	OK       bool             `json:"ok"`
	Kind     string           `json:"kind"`
	Findings []policy.Finding `json:"findings"`
	Store    bool             `json:"store"` // principals were looked up, and the lockout of the caller
}

// PolicyKinds are the kinds of policies by their names.
func PolicyKinds() map[string]policy.Kind {
	return map[string]policy.Kind{"identity": policy.IdentityPolicy, "key": policy.KeyPolicy, "bucket": policy.BucketPolicy}
}

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

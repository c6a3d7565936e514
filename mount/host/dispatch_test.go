package host

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/json"
	"slices"
	"strings"
	"testing"

	"github.com/kmsfs/kmsfs/keystore/audit"
	"github.com/kmsfs/kmsfs/mount/control"
)

const denied = "AccessDenied"

// TestWhoMayDoWhat is the table of authorisation: every command, by somebody
// who may and by everybody who may not. A command without rows fails.
func TestWhoMayDoWhat(t *testing.T) {
	r := newRig(t, true)
	policyText := `{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":"s3:*","Resource":"*"}]}`
	keyPolicy := `{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Principal":{"AWS":"arn:aws:iam::000000000000:root"},"Action":"kms:*","Resource":"*"}]}`
	bucketPolicy := `{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Principal":"*","Action":"s3:GetObject","Resource":"arn:aws:s3:::box/*"}]}`
	f := Path{Typed: "box/f"}
	const (
		recipient = "age1g2utvp30s5tvxlw7rzllnzuhlp6f2m7ztezzwusmqjg6ldc4g96qr0d3vk"
		identity  = "AGE-SECRET-KEY-1KT0KA3RVVCW3SHNETJ8Z2S74LQLZU9J44TKLTGU48T3NAMYCSTVSFMQSWJ" // of this test alone
	)
	var escrowed KeyEscrow
	r.must(uidOwner, CmdKeyExport, KeyExportArgs{Key: "alias/my-key", Recipients: []string{recipient}}, &escrowed)
	inEscrow := []byte(escrowed.File)
	r.d.asked["session"] = make(chan BackupAnswer, 1)
	var grant GrantInfo
	r.must(uidOwner, CmdGrantCreate, GrantArgs{Key: "alias/my-key", Grantee: "bob", Operations: []string{"DescribeKey"}}, &grant)
	r.must(uidOwner, CmdGrantRevoke, GrantRevokeArgs{Key: "alias/my-key", Grant: grant.ID}, nil)

	var retirable GrantInfo
	r.must(uidOwner, CmdGrantCreate, GrantArgs{Key: "alias/my-key", Grantee: "bob", Retiring: "admin", Operations: []string{"Decrypt"}}, &retirable)
	if retirable.Token == "" {
		t.Error("grant.create gives no token")
	}
	var external KeyInfo
	r.must(uidOwner, CmdKeyCreate, KeyCreateArgs{External: true, Tags: map[string]string{"from": "outside"}}, &external)
	if external.State != "PendingImport" || external.Origin != "EXTERNAL" {
		t.Errorf("an external key: %+v", external)
	}
	var parameters KeyImportParameters
	r.must(uidOwner, CmdKeyImportParameters, KeyArgs{external.ARN}, &parameters)
	public, err := x509.ParsePKIXPublicKey(parameters.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	encrypted, err := rsa.EncryptOAEP(sha256.New(), rand.Reader, public.(*rsa.PublicKey), bytes.Repeat([]byte{7}, 32), nil)
	if err != nil {
		t.Fatal(err)
	}

	everyone := []uint32{uidAlice, uidBob, uidPower, uidAuditor}
	except := func(may ...uint32) []uint32 {
		return slices.DeleteFunc(slices.Clone(everyone), func(u uint32) bool { return slices.Contains(may, u) })
	}
	rows := []struct {
		command string
		args    any
		may     []uint32 // beside the owner as admin; each does it in this order
		mayNot  []uint32
	}{
		{CmdBucketList, NoArgs{}, []uint32{uidAlice}, except(uidAlice)},
		{CmdBucketShow, NameArgs{"box"}, []uint32{uidAlice}, except(uidAlice)},
		{CmdBucketEncryption, BucketEncryptionArgs{Name: "box"}, []uint32{uidAlice}, except(uidAlice)},
		{CmdBucketEncryption, BucketEncryptionArgs{Name: "box", Value: "aws:kms:alias/my-key"}, []uint32{uidAlice}, except(uidAlice)},
		{CmdBucketPolicy, BucketPolicyArgs{Name: "box", Policy: Document{true, bucketPolicy}}, []uint32{uidAlice}, except(uidAlice)},
		{CmdBucketPolicy, BucketPolicyArgs{Name: "box"}, []uint32{uidAlice}, except(uidAlice)},
		{CmdBucketCreate, BucketCreateArgs{Name: "fresh"}, nil, except(uidAlice)},
		{CmdBucketDelete, NameArgs{"fresh"}, nil, except(uidAlice)},

		{CmdKeyCreate, KeyCreateArgs{}, []uint32{uidPower}, except(uidPower)},
		{CmdKeyList, NoArgs{}, []uint32{uidPower}, except(uidPower)},
		{CmdKeyShow, KeyArgs{"alias/my-key"}, []uint32{uidPower}, except(uidPower)},
		{CmdKeyPolicy, KeyPolicyArgs{Key: "alias/my-key"}, []uint32{uidPower}, except(uidPower)},
		{CmdKeyPolicy, KeyPolicyArgs{Key: "alias/my-key", Policy: Document{true, keyPolicy}}, nil, everyone},
		{CmdKeyExport, KeyExportArgs{Key: "alias/my-key", Recipients: []string{recipient}}, nil, everyone},
		{CmdKeyImport, KeyImportArgs{File: inEscrow, Identities: identity}, nil, everyone},
		{CmdKeyDisable, KeyArgs{"alias/my-key"}, nil, everyone},
		{CmdKeyEnable, KeyArgs{"alias/my-key"}, nil, everyone},
		{CmdKeyRotate, KeyArgs{"alias/my-key"}, nil, everyone},
		{CmdKeyScheduleDeletion, KeyDeletionArgs{Key: "alias/my-key", Days: 7}, nil, everyone},
		{CmdKeyCancelDeletion, KeyArgs{"alias/my-key"}, nil, everyone},
		{CmdKeyEnable, KeyArgs{"alias/my-key"}, nil, everyone},
		{CmdKeyFiles, KeyFilesArgs{Key: "alias/my-key"}, []uint32{uidPower}, except(uidPower)},
		{CmdKeyRotation, KeyRotationArgs{Key: "alias/my-key", Enable: true, Days: 90}, nil, everyone},
		{CmdKeyRotation, KeyRotationArgs{Key: "alias/my-key"}, []uint32{uidPower}, except(uidPower)},
		{CmdKeyRotation, KeyRotationArgs{Key: "alias/my-key", Disable: true}, nil, everyone},
		{CmdKeyDescribe, KeyDescribeArgs{"alias/my-key", "what it is for"}, nil, everyone},
		{CmdKeyTags, KeyTagsArgs{Key: "alias/my-key", Set: map[string]string{"team": "a", "stage": "b"}}, []uint32{uidPower}, except(uidPower)},
		{CmdKeyTags, KeyTagsArgs{Key: "alias/my-key", Remove: []string{"team"}}, []uint32{uidPower}, except(uidPower)},
		{CmdKeyTags, KeyTagsArgs{Key: "alias/my-key"}, []uint32{uidPower}, except(uidPower)},
		{CmdKeyImportParameters, KeyArgs{external.ARN}, []uint32{uidPower}, except(uidPower)}, // kms:Get*
		{CmdKeyImportMaterial, KeyImportMaterialArgs{Key: external.ARN, Token: parameters.Token, Encrypted: encrypted}, nil, everyone},
		{CmdKeyDeleteMaterial, KeyArgs{external.ARN}, nil, everyone},

		{CmdAliasCreate, AliasArgs{"alias/other", "alias/my-key"}, nil, except(uidPower)},
		{CmdAliasUpdate, AliasArgs{"alias/other", "alias/my-key"}, nil, everyone},
		{CmdAliasList, NoArgs{}, []uint32{uidPower}, except(uidPower)},
		{CmdAliasDelete, AliasArgs{Name: "alias/other"}, nil, except(uidPower)},

		{CmdGrantCreate, GrantArgs{Key: "alias/my-key", Grantee: "bob", Operations: []string{"Decrypt"}, Name: "once"}, nil, everyone},
		{CmdGrantList, KeyArgs{"alias/my-key"}, []uint32{uidPower}, except(uidPower)},
		{CmdGrantRetire, GrantRetireArgs{Key: "alias/my-key", Grant: retirable.ID}, nil, everyone},

		{CmdPrincipalCreate, PrincipalCreateArgs{Name: "dave", UIDs: []uint32{7}}, nil, everyone},
		{CmdPrincipalAttach, PrincipalPolicyArgs{"dave", PolicyArg{Name: "mine", Text: Document{true, policyText}}}, nil, everyone},
		{CmdPrincipalAttach, PrincipalPolicyArgs{"dave", PolicyArg{Name: "AdministratorAccess"}}, nil, everyone},
		{CmdPrincipalDetach, PrincipalPolicyArgs{"dave", PolicyArg{Name: "AdministratorAccess"}}, nil, everyone},
		{CmdPrincipalBoundary, BoundaryArgs{Name: "dave", Policy: PolicyArg{Name: "mine"}}, nil, everyone},
		{CmdPrincipalBoundary, BoundaryArgs{Name: "dave", Remove: true}, nil, everyone},
		{CmdGroupCreate, GroupCreateArgs{Name: "staff", Policies: []PolicyArg{{Name: "mine"}}}, nil, everyone},
		{CmdGroupAdd, GroupMemberArgs{"staff", "dave"}, nil, everyone},
		{CmdGroupAttach, GroupPolicyArgs{"staff", PolicyArg{Name: "theirs", Text: Document{true, policyText}}}, nil, everyone},
		{CmdGroupList, NoArgs{}, []uint32{uidPower}, except(uidPower)},
		{CmdGroupShow, NameArgs{"staff"}, nil, everyone},
		{CmdGroupDetach, GroupPolicyArgs{"staff", PolicyArg{Name: "theirs"}}, nil, everyone},
		{CmdGroupDetach, GroupPolicyArgs{"staff", PolicyArg{Name: "mine"}}, nil, everyone},
		{CmdGroupRemove, GroupMemberArgs{"staff", "dave"}, nil, everyone},
		{CmdGroupDelete, NameArgs{"staff"}, nil, everyone},
		{CmdAccessKeyCreate, NameArgs{"dave"}, nil, everyone},
		{CmdAccessKeyList, NameArgs{"dave"}, nil, everyone},
		{CmdPrincipalList, NoArgs{}, []uint32{uidPower}, except(uidPower)},
		{CmdPrincipalShow, NameArgs{"dave"}, nil, everyone},
		{CmdPrincipalDelete, NameArgs{"dave"}, nil, everyone},

		{CmdPolicyDiff, PolicyDiffArgs{"alias/my-key", keyPolicy}, []uint32{uidPower}, except(uidPower)},
		{CmdPolicyCheck, PolicyCheckArgs{Kind: "key", Text: keyPolicy}, []uint32{uidPower}, except(uidPower)},
		{CmdWhy, WhyArgs{Path: f, Op: "read", Principal: "admin"}, nil, everyone},
		{CmdAuditQuery, AuditArgs{}, []uint32{uidAuditor}, except(uidAuditor)},
		{CmdAuditTail, AuditArgs{Last: 3}, []uint32{uidAuditor}, except(uidAuditor)},
		{CmdAuditVerify, NoArgs{}, []uint32{uidAuditor}, except(uidAuditor)},
		{CmdAuditKeep, AuditKeepArgs{}, []uint32{uidAuditor}, except(uidAuditor)},
		{CmdAuditKeep, AuditKeepArgs{Strict: new(bool)}, nil, everyone},

		{CmdFsck, FsckArgs{Data: true, Repair: true}, nil, everyone},
		{CmdGC, NoArgs{}, nil, everyone},
		{CmdBackup, BackupArgs{Action: BackupTake, Dir: "/backup"}, nil, everyone},
		{CmdBackupAnswer, BackupAnswer{Session: "session"}, nil, everyone},

		{CmdUnlockAdd, UnlockAddArgs{Kind: "key-file", Name: r.dir + "/second.key", Secret: bytes.Repeat([]byte{1}, 32)}, nil, everyone},
		{CmdUnlockRemove, UnlockRemoveArgs{ID: "ffff"}, nil, everyone}, // the owner gets another error: see below
	}
	covered := map[string]bool{
		CmdStatus: true, CmdStop: true, CmdMount: true, CmdUmount: true, // mounts_test.go
		CmdStat: true, CmdRekey: true, CmdGrantRevoke: true, // below
		CmdAccessKeyActivate: true, CmdAccessKeyDelete: true, // groups_test.go
	}
	for _, row := range rows {
		covered[row.command] = true
		for _, uid := range row.mayNot {
			if _, resp := r.do(uid, "", row.command, row.args); resp.Error == nil || !strings.HasPrefix(resp.Error.Code, denied) {
				t.Errorf("%s %+v by uid %d: %+v, want %s", row.command, row.args, uid, resp.Error, denied)
			}
		}
		for _, uid := range append([]uint32{uidOwner}, row.may...) {
			_, resp := r.do(uid, "", row.command, row.args)
			if row.command == CmdUnlockRemove {
				if resp.Error == nil || resp.Error.Code != "UnlockSlot" {
					t.Errorf("%s by uid %d: %+v", row.command, uid, resp.Error)
				}
			} else if resp.Error != nil {
				t.Errorf("%s %+v by uid %d: %+v", row.command, row.args, uid, resp.Error)
			}
		}
	}
	for name := range r.d.commands() {
		if !covered[name] {
			t.Errorf("%s is in no row", name)
		}
	}
}

// TestFilesByCommand: stat and rekey ask what system calls on a mount ask.
func TestFilesByCommand(t *testing.T) {
	r := newRig(t, true)
	f := []Path{{Typed: "box/f"}}
	var infos []StatInfo
	r.must(uidOwner, CmdStat, StatArgs{Paths: append(f, Path{Typed: "box"}, Path{Typed: "box/absent"})}, &infos)
	arn := "arn:aws:kms:us-east-1:000000000000:key/" + r.key
	if len(infos) != 3 || infos[0].KeyARN != arn || infos[0].Context["aws:s3:arn"] != "arn:aws:s3:::box/f" || infos[1].Type != "bucket" || infos[2].Error == "" {
		t.Errorf("stat: %+v", infos)
	}
	infos = nil
	r.must(uidBob, CmdStat, StatArgs{Paths: f}, &infos)
	if infos[0].Error == "" || infos[0].KeyARN != "" {
		t.Errorf("stat without rights: %+v", infos)
	}

	items := r.must(uidOwner, CmdKeyFiles, KeyFilesArgs{Key: "alias/my-key"}, nil)
	if len(items) != 1 || !strings.Contains(string(items[0]), `"box/f"`) {
		t.Errorf("files under the key: %s", items)
	}
	// power may describe the key, and may not see the bucket: he learns that there are files.
	if items = r.must(uidPower, CmdKeyFiles, KeyFilesArgs{Key: "alias/my-key"}, nil); len(items) != 1 || string(items[0]) != `{"hidden":1}` {
		t.Errorf("files under the key, hidden: %s", items)
	}

	var sum RekeyResult
	r.must(uidAlice, CmdRekey, RekeyArgs{To: "AES256", Paths: f}, &sum) // s3:* without KMS
	if sum.Failed != 1 || sum.Changed != 0 {
		t.Errorf("rekey by alice: %+v", sum)
	}
	r.must(uidOwner, CmdRekey, RekeyArgs{To: "AES256", Paths: []Path{{Typed: "box"}}, DryRun: true}, &sum)
	if sum.Changed != 1 {
		t.Errorf("dry run: %+v", sum)
	}
	r.must(uidOwner, CmdRekey, RekeyArgs{From: "alias/my-key", To: "AES256"}, &sum)
	if sum.Changed != 1 || sum.Failed != 0 {
		t.Errorf("rekey: %+v", sum)
	}
	sum = RekeyResult{}
	r.must(uidOwner, CmdRekey, RekeyArgs{From: "alias/my-key", To: "AES256", Paths: f}, &sum)
	if sum.Changed+sum.Failed+sum.Hidden != 0 || sum.Same != 1 || sum.Left != nil {
		t.Errorf("rekey of what is under another key: %+v", sum)
	}
	if items = r.must(uidOwner, CmdKeyFiles, KeyFilesArgs{Key: "alias/my-key"}, nil); len(items) != 0 {
		t.Errorf("files under the key afterwards: %s", items)
	}
}

func TestActingAs(t *testing.T) {
	r := newRig(t, true)
	for _, c := range []struct {
		uid  uint32
		as   string
		want string // "" = works
	}{
		{uidAlice, "", ""},
		{uidAlice, "alice", ""},
		{uidAlice, "admin", denied},
		{uidAlice, "nobody-here", denied}, // names are not told either
		{uidNobody, "", denied},
		{uidNobody, "alice", denied},
		{uidRoot, "", denied}, // root is nobody in particular
		{uidRoot, "alice", ""},
		{uidRoot, "nobody-here", "NoSuchEntity"},
		{uidOwner, "alice", ""},
		{uidTwins, "", "AmbiguousPrincipal"},
		{uidTwins, "twin3", denied},
	} {
		_, resp := r.do(c.uid, c.as, CmdBucketList, NoArgs{})
		got := ""
		if resp.Error != nil {
			got = resp.Error.Code
		}
		if got != c.want {
			t.Errorf("uid %d as %q: %q, want %q", c.uid, c.as, got, c.want)
		}
	}
	// The owner's own choice among several is the one that init made.
	r.must(uidOwner, CmdPrincipalCreate, PrincipalCreateArgs{Name: "aaa", UIDs: []uint32{uidOwner}}, nil)
	r.must(uidOwner, CmdPrincipalList, NoArgs{}, nil)
}

func TestWhyNamesTheGate(t *testing.T) {
	r := newRig(t, true)
	var w WhyResult
	for _, c := range []struct {
		principal, op, path string
		allowed             bool
		last                string // the gate that is asked last
	}{
		{"alice", "read", "box/f", false, "kms:Decrypt"},
		{"alice", "write", "box/new", false, "kms:GenerateDataKey"},
		{"alice", "delete", "box/f", true, "s3:DeleteObject"},
		{"alice", "rename", "box/f", true, "s3:DeleteObject"},
		{"alice", "list", "box", true, "s3:ListBucket"},
		{"admin", "read", "box/f", true, "kms:Decrypt"},
		{"bob", "read", "box/f", false, "kms:Decrypt"},
	} {
		r.must(uidOwner, CmdWhy, WhyArgs{Path: Path{Typed: c.path}, Principal: c.principal, Op: c.op}, &w)
		if w.Allowed != c.allowed || len(w.Gates) == 0 || w.Gates[len(w.Gates)-1].Action != c.last {
			t.Errorf("%+v: %+v", c, w)
		}
	}
	r.must(uidOwner, CmdKeyDisable, KeyArgs{"alias/my-key"}, nil)
	r.must(uidOwner, CmdWhy, WhyArgs{Path: Path{Typed: "box/f"}, Op: "read"}, &w)
	if last := w.Gates[len(w.Gates)-1]; w.Allowed || !strings.Contains(last.Reason, "DisabledException") {
		t.Errorf("a disabled key: %+v", w)
	}
	before := r.must(uidOwner, CmdAuditQuery, AuditArgs{}, nil)
	r.must(uidOwner, CmdWhy, WhyArgs{Path: Path{Typed: "box/f"}, Op: "read"}, &w)
	if after := r.must(uidOwner, CmdAuditQuery, AuditArgs{}, nil); len(after) != len(before) {
		t.Errorf("why left %d audit events", len(after)-len(before))
	}
}

func TestAuditByCommand(t *testing.T) {
	r := newRig(t, true)
	_, _ = r.do(uidBob, "", CmdKeyShow, KeyArgs{"alias/my-key"})
	items := r.must(uidOwner, CmdAuditQuery, AuditArgs{Denied: true, Principal: "bob"}, nil)
	if len(items) == 0 {
		t.Fatal("a refusal left no event")
	}
	e, err := audit.ParseEvent(items[len(items)-1])
	if err != nil || e.EventName != "DescribeKey" || e.ErrorCode == "" || e.AdditionalEventData.Kmsfs.UID != uidBob {
		t.Errorf("event %s %v", items[len(items)-1], err)
	}
	if items = r.must(uidOwner, CmdAuditQuery, AuditArgs{Key: "alias/my-key"}, nil); len(items) == 0 {
		t.Error("no events by the key's alias")
	}

	// A tail shows what comes, until its reader leaves.
	ctx, cancel := context.WithCancel(context.Background())
	seen := make(chan string, 100)
	ended := make(chan control.Response, 1)
	args, _ := json.Marshal(AuditArgs{Follow: true, Last: 1})
	go func() {
		ended <- r.d.Dispatch(ctx, control.Peer{UID: uidAuditor}, control.Request{Command: CmdAuditTail, Args: args}, func(item any) error {
			seen <- item.(*audit.Event).EventName
			return nil
		})
	}()
	<-seen // the one before
	r.must(uidOwner, CmdKeyDisable, KeyArgs{"alias/my-key"}, nil)
	for name := range seen {
		if name == "DisableKey" {
			break
		}
	}
	cancel()
	if resp := <-ended; resp.Error != nil {
		t.Errorf("the end of a tail: %+v", resp.Error)
	}
}

// Settings of the log are changed piece by piece, only by who may, and never to what makes no sense.
func TestAuditKeepByCommand(t *testing.T) {
	r := newRig(t, true)
	n := func(n int64) *int64 { return &n }
	yes := true
	var k AuditKeep
	r.must(uidAuditor, CmdAuditKeep, AuditKeepArgs{}, &k)
	if k != (AuditKeep{MaxFileSize: audit.DefaultFileSize}) {
		t.Errorf("at first: %+v", k)
	}
	r.must(uidOwner, CmdAuditKeep, AuditKeepArgs{MaxFileSize: n(1 << 20), KeepAge: n(86400)}, &k)
	r.must(uidOwner, CmdAuditKeep, AuditKeepArgs{Strict: &yes, KeepSize: n(1 << 30)}, &k)
	want := AuditKeep{Strict: true, MaxFileSize: 1 << 20, KeepSize: 1 << 30, KeepAge: 86400}
	if k != want {
		t.Errorf("%+v", k)
	}
	for _, bad := range []AuditKeepArgs{
		{MaxFileSize: n(-1)}, {MaxFileSize: n(1)}, {KeepSize: n(1)}, {KeepAge: n(-1)}, {KeepAge: n(1)}, {MaxFileAge: n(1 << 62)}, {KeepSize: n(-1)},
	} {
		if _, resp := r.do(uidOwner, "", CmdAuditKeep, bad); resp.Error == nil {
			t.Errorf("%+v was taken", bad)
		}
	}
	if _, resp := r.do(uidAuditor, "", CmdAuditKeep, AuditKeepArgs{KeepAge: n(86400)}); resp.Error == nil {
		t.Error("who may read the log may have events removed")
	}
	r.must(uidAuditor, CmdAuditKeep, AuditKeepArgs{}, &k)
	if k != want {
		t.Errorf("a refusal changed it: %+v", k)
	}
	r.must(uidOwner, CmdAuditKeep, AuditKeepArgs{KeepAge: n(0), KeepSize: n(0), MaxFileSize: n(0)}, &k)
	if k != (AuditKeep{Strict: true, MaxFileSize: audit.DefaultFileSize}) {
		t.Errorf("without limits: %+v", k)
	}
	changes := 0
	for _, item := range r.must(uidOwner, CmdAuditQuery, AuditArgs{}, nil) {
		if e, err := audit.ParseEvent(item); err == nil && e.EventName == "UpdateTrail" {
			changes++
		}
	}
	if changes != 3 {
		t.Errorf("%d events about three changes", changes)
	}
}

func TestMalformedCalls(t *testing.T) {
	r := newRig(t, true)
	for _, c := range []struct{ command, args, want string }{
		{"no.such", `{}`, "UnknownCommand"},
		{CmdKeyShow, `{"key":1}`, "InvalidArgument"},
		{CmdKeyShow, `{"kee":"x"}`, "InvalidArgument"},
		{CmdKeyShow, `{"key":"x"} {}`, "InvalidArgument"},
		{CmdKeyShow, `[`, "InvalidArgument"},
		{CmdWhy, `{"path":{"typed":"box/f"},"op":"fly"}`, "InvalidArgument"},
		{CmdStat, `{"paths":[{"typed":""}]}`, ""},
		{CmdMount, `{"dir":"relative"}`, "InvalidArgument"},
		{CmdMount, `{"dir":"/a/../b"}`, "InvalidArgument"},
		{CmdBucketCreate, `{"name":"Not A Bucket"}`, "InvalidArgument"},
	} {
		resp := r.d.Dispatch(context.Background(), control.Peer{UID: uidOwner}, control.Request{Command: c.command, Args: json.RawMessage(c.args)}, func(any) error { return nil })
		got := ""
		if resp.Error != nil {
			got = resp.Error.Code
		}
		if got != c.want {
			t.Errorf("%s %s: %+v, want %q", c.command, c.args, resp.Error, c.want)
		}
	}
}

func FuzzDispatch(f *testing.F) {
	f.Add("key.show", `{"key":"alias/my-key"}`)
	f.Add("mount", `{"dir":"/x","options":["ro"]}`)
	f.Add("principal.create", `{"name":"x","uids":[1],"policies":[{"name":"p","text":{"set":true,"text":"{}"}}]}`)
	r := newRig(f, true)
	f.Fuzz(func(_ *testing.T, command, args string) {
		if command == CmdUnlockAdd || command == CmdStop { // the one is slow on purpose, the other ends the daemon
			return
		}
		_ = r.d.Dispatch(context.Background(), control.Peer{UID: uidAlice}, control.Request{Command: command, Args: json.RawMessage(args)}, func(any) error { return nil })
	})
}

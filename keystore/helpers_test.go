package keystore

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/kmsfs/kmsfs/crypto"
	"github.com/kmsfs/kmsfs/fs/kv"
	"github.com/kmsfs/kmsfs/fs/kv/ledger"
	"github.com/kmsfs/kmsfs/fs/kv/memkv"
	"github.com/kmsfs/kmsfs/fs/kv/sealed"
	"github.com/kmsfs/kmsfs/keystore/audit"
	"github.com/kmsfs/kmsfs/principals/policy"
)

const (
	testAccount = "111122223333"
	testRegion  = "us-east-1"
)

// clock is a clock that a test moves.
type clock struct {
	mu  sync.Mutex
	now time.Time
}

func newClock() *clock { return &clock{now: time.Date(2026, 11, 23, 10, 0, 0, 0, time.UTC)} }

func (c *clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *clock) Advance(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
}

// world is a keystore with everything below it, which outlives the service.
type world struct {
	t     testing.TB
	dir   string
	disk  kv.Store
	rows  *crypto.DataKey
	root  *crypto.DataKey
	clock *clock
	audit *audit.Log
	known policy.Directory
	now   func() time.Time // nil = clock.Now
	other string           // a second key, for some tests

	acceptLost bool // Config.AcceptLost
	*Service
}

func newWorld(t testing.TB) *world {
	t.Helper()
	w := &world{t: t, dir: t.TempDir(), disk: memkv.New(), rows: crypto.NewDataKey(), root: crypto.NewDataKey(), clock: newClock()}
	w.openAudit(audit.Options{})
	w.open()
	t.Cleanup(func() {
		w.Close()
		w.audit.Close()
	})
	return w
}

func (w *world) openAudit(o audit.Options) {
	w.t.Helper()
	o.Clock = w.clock.Now
	l, err := audit.Open(filepath.Join(w.dir, "audit"), w.rows.Derive(nil, "audit").Expose(), o)
	if err != nil {
		w.t.Fatal(err)
	}
	w.audit = l
}

func (w *world) tryOpen() error {
	l, err := ledger.Open(sealed.New(w.disk, w.rows), w.rows)
	if err != nil {
		return err
	}
	s, err := Open(Config{
		Ledger: l, Root: w.root, ShredFile: w.shredPath(), Audit: w.audit, Account: testAccount, Region: testRegion,
		Clock: w.time, AcceptLost: w.acceptLost, Principals: w.known,
	})
	if err == nil {
		w.Service = s
	}
	return err
}

func (w *world) open() {
	w.t.Helper()
	if err := w.tryOpen(); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) reopen() {
	w.t.Helper()
	if err := w.Close(); err != nil {
		w.t.Fatal(err)
	}
	w.open()
}

func (w *world) shredPath() string { return filepath.Join(w.dir, "shred") }

func (w *world) events(f audit.Filter) []audit.Event {
	w.t.Helper()
	var out []audit.Event
	if err := w.audit.Query(f, func(e audit.Event) error { out = append(out, e); return nil }); err != nil {
		w.t.Fatal(err)
	}
	return out
}

// last is the newest audit event.
func (w *world) last() audit.Event {
	w.t.Helper()
	e := w.events(audit.Filter{Last: 1})
	if len(e) != 1 {
		w.t.Fatal("no audit event")
	}
	return e[0]
}

// vectors are testdata/policy.json.
type vectors struct {
	Account          string
	Key              string
	IdentityPolicies map[string][]json.RawMessage
	KeyPolicies      map[string]json.RawMessage
	StateTable       map[string]map[string]json.RawMessage
	GrantVectors     []grantVector
}

type grantVector struct {
	ID, Principal, Identity, KeyPolicy, Action, Expect string
	Grants                                             []struct {
		GranteePrincipal string
		Operations       []string
		Constraints      struct{ EncryptionContextSubset, EncryptionContextEquals map[string]string }
	}
	Context map[string]any
	Request struct{ Operations []string }
}

var loadVectors = sync.OnceValues(func() (vectors, error) {
	var v vectors
	b, err := os.ReadFile(filepath.Join("testdata", "policy.json"))
	if err != nil {
		return v, err
	}
	return v, json.Unmarshal(b, &v)
})

func testVectors(t testing.TB) vectors {
	t.Helper()
	v, err := loadVectors()
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// who is the principal behind an ARN with the identity policies of that name in the vectors.
func who(t testing.TB, arn, policies string) *policy.Identity {
	t.Helper()
	id := &policy.Identity{ARN: arn, Account: strings.Split(arn, ":")[4]}
	switch {
	case strings.HasSuffix(arn, ":root"):
		id.Type, id.ID = policy.RootUser, id.Account
	case strings.Contains(arn, ":user/"):
		id.Type, id.Name = policy.User, arn[strings.LastIndexByte(arn, '/')+1:]
		id.ID = "AIDA" + strings.ToUpper(id.Name)
	default:
		parts := strings.Split(arn, "/")
		id.Type, id.RoleARN, id.ID = policy.Session, "arn:aws:iam::"+id.Account+":role/"+parts[1], "AROA"+parts[1]+":"+parts[2]
	}
	for _, text := range testVectors(t).IdentityPolicies[policies] {
		doc, err := policy.Parse(policy.IdentityPolicy, text)
		if err != nil {
			t.Fatal(err)
		}
		id.Policies = append(id.Policies, policy.Named{Name: policies, Document: doc})
	}
	return id
}

func userARN(name string) string { return "arn:aws:iam::" + testAccount + ":user/" + name }

func as(t testing.TB, name, policies string) *Call {
	return &Call{Who: who(t, userARN(name), policies)}
}

func viaS3(t testing.TB, name, policies string) *Call {
	c := as(t, name, policies)
	c.ViaS3, c.Op, c.Path, c.Mount, c.UID, c.PID, c.Inode = true, "open", "/pay/q1.csv", "/mnt/"+name, 1001, 42, 7
	return c
}

func (w *world) admin() *Call { return as(w.t, "admin", "admin") }

// key makes a key with a policy of the vectors and returns its ARN.
func (w *world) key(policyName string) string {
	w.t.Helper()
	m, err := w.CreateKey(w.admin(), CreateKeyInput{Policy: testVectors(w.t).KeyPolicies[policyName], BypassLockout: true})
	if err != nil {
		w.t.Fatal(err)
	}
	return m.ARN
}

var payContext = crypto.Context{"aws:s3:arn": "arn:aws:s3:::pay/q1.csv"}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// wants checks an error's code and, unless it is "*", its message.
func wants(t testing.TB, err error, code, message string) {
	t.Helper()
	e, ok := errors.AsType[*Error](err)
	switch {
	case code == "" && err == nil:
	case !ok:
		t.Errorf("got %v, want %s %q", err, code, message)
	case e.Code != code || message != "*" && e.Message != message:
		t.Errorf("got %s %q, want %s %q", e.Code, e.Message, code, message)
	}
}

func (w *world) generate(c *Call, ref string, ctx crypto.Context) (*crypto.DataKey, crypto.WrappedKey) {
	w.t.Helper()
	dk, wrapped, _, err := w.GenerateDataKey(c, ref, ctx)
	must(w.t, err)
	return dk, wrapped
}

func auditName(name string) audit.Filter { return audit.Filter{Name: name} }

func (w *world) time() time.Time {
	if w.now != nil {
		return w.now()
	}
	return w.clock.Now()
}

func newDisk() kv.Store { return memkv.New() }

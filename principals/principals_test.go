package principals

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/kmsfs/kmsfs/crypto"
	"github.com/kmsfs/kmsfs/fs/kv"
	"github.com/kmsfs/kmsfs/fs/kv/ledger"
	"github.com/kmsfs/kmsfs/fs/kv/memkv"
	"github.com/kmsfs/kmsfs/principals/policy"
)

const account = "111122223333"

var testTime = time.Date(2026, 1, 2, 3, 4, 5, 678, time.FixedZone("x", 3600))

// A world is a store of principals and what it stands on.
type world struct {
	*Store
	kv     *failing
	key    *crypto.DataKey
	ledger *ledger.Ledger
}

// failing is a key-value store whose updates can be made to fail, before or
// after they are applied.
type failing struct {
	kv.Store
	before, after error
}

func (f *failing) Update(fn func(kv.Txn) error) error {
	if f.before != nil {
		return f.before
	}
	if err := f.Store.Update(fn); err != nil {
		return err
	}
	return f.after
}

func newWorld(t testing.TB) *world {
	t.Helper()
	w := &world{kv: &failing{Store: memkv.New()}, key: crypto.NewDataKey()}
	w.reopen(t)
	return w
}

func (w *world) reopen(t testing.TB) {
	t.Helper()
	l, err := ledger.Open(w.kv, w.key)
	if err != nil {
		t.Fatal(err)
	}
	w.ledger = l
	if w.Store, err = Open(l, account, func() time.Time { return testTime }); err != nil {
		t.Fatal(err)
	}
}

func (w *world) create(t testing.TB, name string, uids []uint32, policies ...string) Principal {
	t.Helper()
	p, err := w.Create(name, uids, policies)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// picture is all that can be seen of a store, for "nothing changed".
func (w *world) picture() string {
	var b strings.Builder
	fmt.Fprintf(&b, "version %d\n", w.ledger.Version())
	for _, p := range w.List() {
		fmt.Fprintf(&b, "%+v\n", p)
	}
	for _, name := range w.Policies() {
		text, _ := w.Policy(name)
		fmt.Fprintf(&b, "%s %s\n", name, text)
	}
	st := w.now.Load()
	for _, uid := range slices.Sorted(maps.Keys(st.byUID)) {
		fmt.Fprintln(&b, uid, st.byUID[uid])
	}
	for _, m := range []map[string]string{st.folded, st.foldedPolicies} {
		for _, k := range slices.Sorted(maps.Keys(m)) {
			fmt.Fprintln(&b, k, m[k])
		}
	}
	return b.String()
}

const ownPolicy = `{"Version":"2012-10-17","Statement":{"Effect":"Allow","Action":"kms:Decrypt","Resource":"*"}}`

func TestCreate(t *testing.T) {
	w := newWorld(t)
	p := w.create(t, "alice", []uint32{1001, 1000, 1001}, Administrator, "AmazonS3FullAccess", Administrator)
	if p.Name != "alice" || p.ARN != "arn:aws:iam::111122223333:user/alice" || !slices.Equal(p.UIDs, []uint32{1000, 1001}) ||
		!slices.Equal(p.Policies, []string{Administrator, "AmazonS3FullAccess"}) || !p.Created.Equal(time.Date(2026, 1, 2, 2, 4, 5, 0, time.UTC)) || p.Created.Location() != time.UTC {
		t.Errorf("%+v", p)
	}
	if len(p.ID) != 21 || !strings.HasPrefix(p.ID, "AIDA") {
		t.Errorf("id %q", p.ID)
	}
	for _, get := range []func() (Principal, error){func() (Principal, error) { return w.Get("alice") }, func() (Principal, error) { return w.ByARN(p.ARN) }} {
		got, err := get()
		if err != nil || fmt.Sprint(got) != fmt.Sprint(p) {
			t.Errorf("%+v, %v", got, err)
		}
		got.UIDs[0], got.Policies[0] = 7, "x" // a copy
	}
	who, err := w.Identity("alice")
	if err != nil || who.Type != policy.User || who.Account != account || who.ARN != p.ARN || who.Name != "alice" || who.ID != p.ID || len(who.Policies) != 2 || who.Policies[0].Name != Administrator {
		t.Errorf("%+v, %v", who, err)
	}
	w.create(t, "bob+x=y,z.@-_", []uint32{1000})
	w.create(t, strings.Repeat("x", 64), nil)
	if got := w.ByUID(1000); !slices.Equal(got, []string{"alice", "bob+x=y,z.@-_"}) {
		t.Errorf("%v", got)
	}
	if got := w.ByUID(4242); len(got) != 0 {
		t.Errorf("%v", got)
	}
	// Everything is there after a restart.
	before := w.picture()
	w.reopen(t)
	if after := w.picture(); after != before {
		t.Errorf("before:\n%s\nafter:\n%s", before, after)
	}
}

// Wrong input gives the error that says so, and changes nothing.
func TestWrongInput(t *testing.T) {
	w := newWorld(t)
	w.create(t, "root-like", []uint32{0}, Administrator)
	w.create(t, "alice", []uint32{1000}, "AmazonS3FullAccess")
	if err := w.PutPolicy("own", []byte(ownPolicy)); err != nil {
		t.Fatal(err)
	}
	if err := w.Attach("alice", "own"); err != nil {
		t.Fatal(err)
	}
	create := func(name string, uids []uint32, policies ...string) func() error {
		return func() error { _, err := w.Create(name, uids, policies); return err }
	}
	many := make([]uint32, MaxUIDs+1)
	for i := range many {
		many[i] = uint32(i)
	}
	tooMany := []string{Administrator, "AmazonS3FullAccess"}
	for i := range MaxAttachments {
		tooMany = append(tooMany, fmt.Sprint("p", i))
	}
	for name, c := range map[string]struct {
		do   func() error
		want error
		text string
	}{
		"empty name":             {create("", nil), ErrInvalidName, "1 to 64"},
		"space in name":          {create("al ice", nil), ErrInvalidName, "_+=,.@-"},
		"slash in name":          {create("a/b", nil), ErrInvalidName, ""},
		"not ASCII":              {create("älice", nil), ErrInvalidName, ""},
		"NUL":                    {create("a\x00", nil), ErrInvalidName, ""},
		"long name":              {create(strings.Repeat("x", 65), nil), ErrInvalidName, ""},
		"name taken":             {create("alice", nil), ErrExists, `"alice"`},
		"taken in another case":  {create("ALICE", nil), ErrExists, `by "alice"`},
		"uid -1":                 {create("bob", []uint32{1, 4294967295}), ErrInvalidUID, ""},
		"too many uids":          {create("bob", many), ErrLimit, "64 uids"},
		"unknown policy":         {create("bob", nil, "Administratoraccess"), ErrPolicyNotFound, `"Administratoraccess"`},
		"too many policies":      {create("bob", nil, tooMany...), ErrLimit, "10 attached"},
		"get nobody":             {func() error { _, err := w.Get("bob"); return err }, ErrNotFound, `"bob"`},
		"identity of nobody":     {func() error { _, err := w.Identity("Alice"); return err }, ErrNotFound, ""},
		"ARN of another account": {func() error { _, err := w.ByARN("arn:aws:iam::444455556666:user/alice"); return err }, ErrNotFound, ""},
		"delete nobody":          {func() error { return w.Delete("bob") }, ErrNotFound, ""},
		"delete last admin":      {func() error { return w.Delete("root-like") }, ErrLastAdministrator, "another principal"},
		"detach last admin":      {func() error { return w.Detach("root-like", Administrator) }, ErrLastAdministrator, ""},
		"attach to nobody":       {func() error { return w.Attach("bob", Administrator) }, ErrNotFound, ""},
		"attach unknown":         {func() error { return w.Attach("alice", "nope") }, ErrPolicyNotFound, ""},
		"detach what is not":     {func() error { return w.Detach("alice", Administrator) }, ErrNotAttached, ""},
		"detach from nobody":     {func() error { return w.Detach("bob", Administrator) }, ErrNotFound, ""},
		"bind to nobody":         {func() error { return w.BindUID("bob", 1) }, ErrNotFound, ""},
		"bind -1":                {func() error { return w.BindUID("alice", 4294967295) }, ErrInvalidUID, ""},
		"unbind what is not":     {func() error { return w.UnbindUID("alice", 1) }, ErrNotBound, ""},
		"policy name":            {func() error { return w.PutPolicy("a b", []byte(ownPolicy)) }, ErrInvalidName, "1 to 128"},
		"policy built in":        {func() error { return w.PutPolicy(Administrator, []byte(ownPolicy)) }, ErrBuiltIn, ""},
		"policy nearly built in": {func() error { return w.PutPolicy("administratoraccess", []byte(ownPolicy)) }, ErrBuiltIn, ""},
		"policy in another case": {func() error { return w.PutPolicy("OWN", []byte(ownPolicy)) }, ErrExists, `by "own"`},
		"delete unknown policy":  {func() error { return w.DeletePolicy("nope") }, ErrPolicyNotFound, ""},
		"delete built-in policy": {func() error { return w.DeletePolicy("AmazonS3FullAccess") }, ErrBuiltIn, ""},
		"delete policy in use":   {func() error { return w.DeletePolicy("own") }, ErrPolicyInUse, "to alice"},
		"malformed policy":       {func() error { return w.PutPolicy("new", []byte(`{"Statement":[{"Effect":"Allow"}]}`)) }, nil, "Statement[0]"},
		"malformed replacement":  {func() error { return w.PutPolicy("own", []byte(`{}`)) }, nil, "Statement is missing"},
		"a key policy":           {func() error { return w.PutPolicy("new", policy.DefaultKeyPolicy(account)) }, nil, "no Principal"},
		"idempotent attach":      {func() error { return errors.Join(w.Attach("alice", "own"), errNothing) }, errNothing, ""},
		"idempotent bind":        {func() error { return errors.Join(w.BindUID("alice", 1000), errNothing) }, errNothing, ""},
	} {
		before := w.picture()
		who, _ := w.Identity("alice")
		called := 0
		w.hooks = []func(string){func(string) { called++ }}
		err := c.do()
		if err == nil || c.want != nil && !errors.Is(err, c.want) || !strings.Contains(err.Error(), c.text) {
			t.Errorf("%s: %v, want %v with %q", name, err, c.want, c.text)
		}
		if c.want == nil {
			var m *policy.MalformedError
			if !errors.As(err, &m) {
				t.Errorf("%s: %v, want a MalformedError", name, err)
			}
		}
		if again, _ := w.Identity("alice"); w.picture() != before || again != who || called != 0 {
			t.Errorf("%s changed something", name)
		}
	}
}

var errNothing = errors.New("nothing")

func TestLastAdministrator(t *testing.T) {
	w := newWorld(t)
	w.create(t, "a", nil, Administrator)
	w.create(t, "b", nil)
	if err := w.Attach("b", Administrator); err != nil {
		t.Fatal(err)
	}
	if err := w.Delete("a"); err != nil {
		t.Fatal(err)
	}
	if err := w.Detach("b", Administrator); !errors.Is(err, ErrLastAdministrator) {
		t.Fatal(err)
	}
	w.create(t, "c", nil, Administrator)
	if err := w.Detach("b", Administrator); err != nil {
		t.Fatal(err)
	}
	if err := w.Delete("b"); err != nil {
		t.Fatal(err)
	}
	if err := w.Delete("c"); !errors.Is(err, ErrLastAdministrator) {
		t.Fatal(err)
	}
	w.reopen(t)
	if got := w.List(); len(got) != 1 || got[0].Name != "c" {
		t.Errorf("%v", got)
	}
}

// Who is created again under an old name is somebody else.
func TestRecreate(t *testing.T) {
	w := newWorld(t)
	first := w.create(t, "alice", []uint32{1000})
	if err := w.Delete("alice"); err != nil {
		t.Fatal(err)
	}
	if got := w.ByUID(1000); len(got) != 0 {
		t.Errorf("%v", got)
	}
	if second := w.create(t, "Alice", nil); second.ID == first.ID {
		t.Error("the same id again")
	}
}

// Any change makes a new picture of whom it concerns, tells of it once it is
// visible, and leaves the others alone.
func TestChanges(t *testing.T) {
	w := newWorld(t)
	w.create(t, "admin", nil, Administrator)
	w.create(t, "alice", []uint32{1000})
	w.create(t, "bob", nil)
	var told []string
	w.OnChange(func(name string) {
		told = append(told, name)
		_, _ = w.Identity(name) // may call the store
		_ = w.AttachedTo("own")
	})
	for _, c := range []struct {
		name string
		do   func() error
		told string
	}{
		{"attach", func() error { return w.Attach("alice", "AmazonS3FullAccess") }, "alice"},
		{"detach", func() error { return w.Detach("alice", "AmazonS3FullAccess") }, "alice"},
		{"bind", func() error { return w.BindUID("alice", 5) }, "alice"},
		{"unbind", func() error { return w.UnbindUID("alice", 5) }, "alice"},
		{"put a policy", func() error { return w.PutPolicy("own", []byte(ownPolicy)) }, ""},
		{"attach it", func() error { return w.Attach("alice", "own") }, "alice"},
		{"replace it", func() error { return w.PutPolicy("own", []byte(strings.Replace(ownPolicy, "Allow", "Deny", 1))) }, "alice"},
		{"attach it to another", func() error { return w.Attach("admin", "own") }, "admin"},
		{"replace it for both", func() error { return w.PutPolicy("own", []byte(ownPolicy)) }, "admin alice"},
		{"detach it", func() error { return errors.Join(w.Detach("alice", "own"), w.Detach("admin", "own")) }, "alice admin"},
		{"delete it", func() error { return w.DeletePolicy("own") }, ""},
		{"create", func() error { _, err := w.Create("carol", nil, nil); return err }, "carol"},
		{"delete", func() error { return w.Delete("carol") }, "carol"},
	} {
		told = nil
		before := map[string]*policy.Identity{}
		for _, p := range w.List() {
			before[p.Name], _ = w.Identity(p.Name)
		}
		if err := c.do(); err != nil {
			t.Fatalf("%s: %v", c.name, err)
		}
		if got := strings.Join(told, " "); got != c.told {
			t.Errorf("%s told %q, want %q", c.name, got, c.told)
		}
		for name, old := range before {
			now, _ := w.Identity(name)
			if concerned := slices.Contains(told, name); (now != old) != concerned {
				t.Errorf("%s: the picture of %s is new: %v", c.name, name, now != old)
			}
		}
		picture := w.picture()
		hooks := w.hooks
		w.reopen(t)
		if again := w.picture(); again != picture {
			t.Errorf("%s: before the restart\n%s\nafter it\n%s", c.name, picture, again)
		}
		w.hooks = hooks
	}
}

func TestPolicies(t *testing.T) {
	w := newWorld(t)
	builtin := []string{"AWSKeyManagementServicePowerUser", Administrator, "AmazonS3FullAccess", "AmazonS3ReadOnlyAccess"}
	if got := w.Policies(); !slices.Equal(got, builtin) {
		t.Errorf("%v", got)
	}
	roomy := []byte(" " + ownPolicy + "\n\n")
	if err := w.PutPolicy("own", roomy); err != nil {
		t.Fatal(err)
	}
	if got, ok := w.Policy("own"); !ok || string(got) != string(roomy) {
		t.Errorf("%q", got)
	}
	if got, ok := w.Policy("nope"); ok {
		t.Errorf("%q", got)
	}
	if !w.BuiltIn(Administrator) || w.BuiltIn("own") {
		t.Error("built in?")
	}
	w.create(t, "alice", nil, "own")
	if got := w.AttachedTo("own"); !slices.Equal(got, []string{"alice"}) {
		t.Errorf("%v", got)
	}
}

// E.1: what the built-in policies let do.
func TestBuiltInPolicies(t *testing.T) {
	w := newWorld(t)
	for name, c := range map[string]struct{ allowed, refused string }{
		Administrator:                      {"s3:DeleteBucket kms:CreateKey iam:CreateUser", ""},
		"AmazonS3FullAccess":               {"s3:GetObject s3:PutBucketPolicy s3:ListAllMyBuckets s3-object-lambda:GetObject", "kms:Decrypt kms:ListKeys iam:ListUsers"},
		"AmazonS3ReadOnlyAccess":           {"s3:GetObject s3:ListBucket s3:GetBucketPolicy", "s3:PutObject s3:DeleteObject s3:PutEncryptionConfiguration kms:Decrypt"},
		"AWSKeyManagementServicePowerUser": {"kms:CreateKey kms:CreateAlias kms:ListKeys kms:DescribeKey iam:ListUsers", "kms:Decrypt kms:PutKeyPolicy kms:ScheduleKeyDeletion s3:GetObject"},
	} {
		user := "u" + name
		w.create(t, user, nil, name)
		who, err := w.Identity(user)
		if err != nil {
			t.Fatal(err)
		}
		for want, actions := range map[bool]string{true: c.allowed, false: c.refused} {
			for _, action := range strings.Fields(actions) {
				if d := policy.DecideIdentity(who, &policy.Request{Action: action, Resource: "*"}); d.Allowed() != want {
					t.Error(d.Reason())
				}
			}
		}
	}
}

// A commit that fails leaves everything as it was; one that is reported as
// failed but was applied is followed.
func TestFailedCommit(t *testing.T) {
	w := newWorld(t)
	w.create(t, "alice", []uint32{1000}, Administrator)
	before := w.picture()
	for _, err := range []error{kv.ErrNoSpace, errors.New("disk on fire")} {
		w.kv.before = err
		if got := w.BindUID("alice", 1001); !errors.Is(got, err) {
			t.Errorf("%v", got)
		}
		w.kv.before = nil
		if got := w.picture(); got != before {
			t.Errorf("after %v:\n%s", err, got)
		}
	}
	told := 0
	w.OnChange(func(string) { told++ })
	w.kv.after = errors.New("the line went dead")
	if err := w.BindUID("alice", 1001); err == nil {
		t.Error("no error")
	}
	w.kv.after = nil
	p, err := w.Get("alice")
	if err != nil || !slices.Equal(p.UIDs, []uint32{1000, 1001}) || told != 1 {
		t.Errorf("%+v, %v, told %d times", p, err, told)
	}
	if err := w.BindUID("alice", 1002); err != nil {
		t.Error(err)
	}
	picture := w.picture()
	w.reopen(t)
	if again := w.picture(); again != picture {
		t.Errorf("before:\n%s\nafter:\n%s", picture, again)
	}
}

func TestOpenRefuses(t *testing.T) {
	user := func(doc string) func(*ledger.Tx) {
		return func(tx *ledger.Tx) { tx.Put(kindUser, "alice", []byte(doc)) }
	}
	pol := func(name, doc string) func(*ledger.Tx) {
		return func(tx *ledger.Tx) { tx.Put(kindPolicy, name, []byte(doc)) }
	}
	good := `{"version":1,"name":"alice","id":"AIDAMZXW6YTBOI2DKNRXG","created":"2026-01-02T03:04:05Z","uids":[1,2],"policies":["AmazonS3FullAccess"]}`
	for name, put := range map[string]func(*ledger.Tx){
		"not JSON":           user("{"),
		"two values":         user(good + good),
		"unknown name":       user(strings.Replace(good, `"uids"`, `"x":1,"uids"`, 1)),
		"unknown version":    user(strings.Replace(good, `"version":1`, `"version":2`, 1)),
		"another name":       user(strings.Replace(good, `"alice"`, `"bob"`, 1)),
		"bad id":             user(strings.Replace(good, `AIDAM`, `AROAM`, 1)),
		"uids out of order":  user(strings.Replace(good, `[1,2]`, `[2,1]`, 1)),
		"uid twice":          user(strings.Replace(good, `[1,2]`, `[1,1]`, 1)),
		"uid -1":             user(strings.Replace(good, `[1,2]`, `[4294967295]`, 1)),
		"policy not there":   user(strings.Replace(good, `AmazonS3FullAccess`, `nope`, 1)),
		"bad policy":         pol("p", `{"version":1,"name":"p","document":"{}"}`),
		"bad policy name":    pol("a b", `{"version":1,"name":"a b","document":"`+strings.ReplaceAll(ownPolicy, `"`, `\"`)+`"}`),
		"policy version":     pol("p", `{"version":3,"name":"p","document":"`+strings.ReplaceAll(ownPolicy, `"`, `\"`)+`"}`),
		"another policy":     pol("q", `{"version":1,"name":"p","document":"`+strings.ReplaceAll(ownPolicy, `"`, `\"`)+`"}`),
		"policy as built-in": pol("administratoraccess", `{"version":1,"name":"administratoraccess","document":"`+strings.ReplaceAll(ownPolicy, `"`, `\"`)+`"}`),
		"two cases": func(tx *ledger.Tx) {
			tx.Put(kindUser, "alice", []byte(good))
			tx.Put(kindUser, "Alice", []byte(strings.Replace(good, `"alice"`, `"Alice"`, 1)))
		},
	} {
		w := newWorld(t)
		if err := w.ledger.Update(func(tx *ledger.Tx) error { put(tx); return nil }); err != nil {
			t.Fatal(err)
		}
		if _, err := Open(w.ledger, account, time.Now); !errors.Is(err, ErrCorrupt) {
			t.Errorf("%s: %v", name, err)
		}
	}
	w := newWorld(t)
	for _, a := range []string{"", "11112222333", "11112222333x"} {
		if _, err := Open(w.ledger, a, time.Now); err == nil {
			t.Errorf("account %q accepted", a)
		}
	}
}

// The example of FORMAT.md reads and writes byte for byte.
func TestFormat(t *testing.T) {
	doc, err := os.ReadFile("testdata/user.json")
	if err != nil {
		t.Fatal(err)
	}
	p, err := decodeUser("alice", doc)
	if err != nil {
		t.Fatal(err)
	}
	if again, err := encodeUser(p); err != nil || string(again) != string(doc) {
		t.Errorf("%s, %v", again, err)
	}
	doc, err = os.ReadFile("testdata/policy.json")
	if err != nil {
		t.Fatal(err)
	}
	d, err := decodePolicy("use-my-key", doc)
	if err != nil {
		t.Fatal(err)
	}
	if again, err := encodePolicy("use-my-key", d.Text()); err != nil || string(again) != string(doc) {
		t.Errorf("%s, %v", again, err)
	}
	text, err := os.ReadFile("FORMAT.md")
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(text), string(doc)) {
		t.Error("FORMAT.md and testdata/policy.json differ")
	}
}

func TestConcurrent(t *testing.T) {
	w := newWorld(t)
	w.create(t, "admin", nil, Administrator)
	w.OnChange(func(name string) { _, _ = w.Identity(name) })
	const workers, rounds = 8, 25
	var readers, writers sync.WaitGroup
	stop := make(chan struct{})
	for range 2 {
		readers.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				for _, p := range w.List() {
					if who, err := w.Identity(p.Name); err == nil && who.Name != p.Name {
						t.Errorf("%s is %s", p.Name, who.Name)
					}
				}
				_ = w.ByUID(1)
			}
		})
	}
	for i := range workers {
		writers.Go(func() {
			name := fmt.Sprint("u", i)
			for r := range rounds {
				_, err := w.Create(name, []uint32{1}, []string{"AmazonS3FullAccess"})
				err = errors.Join(err, w.BindUID(name, uint32(r+2)), w.PutPolicy("own", []byte(ownPolicy)), w.Attach(name, "own"), w.Detach(name, "own"), w.Delete(name))
				if err != nil {
					t.Error(err)
				}
			}
		})
	}
	writers.Wait()
	close(stop)
	readers.Wait()
	if got := w.List(); len(got) != 1 || len(w.ByUID(1)) != 0 {
		t.Errorf("%v", got)
	}
}

func FuzzDecode(f *testing.F) {
	for _, name := range []string{"testdata/user.json", "testdata/policy.json"} {
		b, err := os.ReadFile(name)
		if err != nil {
			f.Fatal(err)
		}
		f.Add("alice", b)
		f.Add("use-my-key", b)
	}
	f.Fuzz(func(t *testing.T, id string, doc []byte) {
		if p, err := decodeUser(id, doc); err == nil {
			again, err := encodeUser(p)
			if err != nil {
				t.Fatal(err)
			}
			q, err := decodeUser(id, again)
			if err != nil || fmt.Sprint(p) != fmt.Sprint(q) {
				t.Fatalf("%+v became %+v, %v", p, q, err)
			}
		}
		_, _ = decodePolicy(id, doc)
	})
}

func BenchmarkIdentity(b *testing.B) {
	w := newWorld(b)
	for i := range 100 {
		w.create(b, fmt.Sprint("user", i), nil, "AmazonS3FullAccess")
	}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := w.Identity("user42"); err != nil {
			b.Fatal(err)
		}
	}
}

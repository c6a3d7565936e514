package keystore

import (
	"errors"
	"fmt"
	"log/slog"
	"regexp"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/kmsfs/kmsfs/crypto"
	"github.com/kmsfs/kmsfs/crypto/wrap"
	"github.com/kmsfs/kmsfs/fs/kv/ledger"
	"github.com/kmsfs/kmsfs/keystore/audit"
	"github.com/kmsfs/kmsfs/principals/policy"
)

// Recorder takes the event of a call: *audit.Log. It keeps nothing of the event. An error refuses the call.
type Recorder interface {
	Append(e *audit.Event) error
}

// Config is what a Service is made of.
type Config struct {
	Ledger    *ledger.Ledger
	Root      *crypto.DataKey // cloned
	ShredFile string          // path of the slot file, made if it is missing and the ledger holds no key
	Audit     Recorder        // not closed by the service
	Account   string          // 12 digits
	Region    string
	Clock     func() time.Time
	// Principals knows the principals of the account. Policies and grants that name one that does not exist are refused; those
	// that name one that does are kept with its unique id, so that whoever is made again under the name of a deleted principal does not
	// inherit. nil = none are known, and names are taken as they are.
	Principals policy.Directory
	Logger     *slog.Logger // nil = none
	// AcceptLost has keys whose shred key is not there count as deleted, instead of refusing the store: after older documents were put
	// back beside a newer slot file, or a backup whose shred keys were forgotten.
	AcceptLost bool
}

// Service is an open keystore. Its methods may be called concurrently.
type Service struct {
	ledger     *ledger.Ledger
	root       *crypto.DataKey
	tokens     *crypto.DataKey // signs grant tokens
	shred      *shredFile
	wrapping   *wrap.Cache // wrapping keys of the materials
	audit      Recorder
	account    string
	region     string
	clock      func() time.Time
	principals policy.Directory // may be nil
	logger     *slog.Logger

	arnPrefix  string   // arn:aws:kms:R:A:
	managedARN string   // of alias/aws/s3
	via        []string // the value of kms:ViaService
	called     []string // and of aws:CalledVia
	accountID  []string

	manage sync.Mutex // one change at a time; see doc.go
	closed atomic.Bool
	epoch  atomic.Uint64

	index   sync.RWMutex // guards the two maps, and tokens against being wiped in use
	keys    map[keyID]*key
	aliases map[string]*alias

	store   *key // the hidden key of SSE-S3
	managed atomic.Pointer[key]

	hooks    sync.Mutex // guards onChange
	onChange []func(keyARN string)

	lost []string // ARNs of keys that AcceptLost removed

	stop  chan struct{}
	due   chan struct{} // the earliest due date may have changed
	ended chan struct{}
}

var (
	accountPattern = regexp.MustCompile(`^[0-9]{12}$`)
	regionPattern  = regexp.MustCompile(`^[a-z0-9-]{1,64}$`)
)

// Open loads every key, verifies that its shred slot and its materials authenticate, removes what an interrupted deletion
// left, and applies what has fallen due. ErrCorrupt or ErrVersion if anything is not as it was written.
func Open(c Config) (*Service, error) {
	switch {
	case c.Ledger == nil || c.Root == nil || c.Audit == nil || c.Clock == nil:
		return nil, errors.New("keystore: ledger, root key, audit log and clock are required")
	case !accountPattern.MatchString(c.Account):
		return nil, fmt.Errorf("keystore: account id %q is not 12 digits", c.Account)
	case !regionPattern.MatchString(c.Region):
		return nil, fmt.Errorf("keystore: region %q", c.Region)
	}
	s := &Service{
		ledger:     c.Ledger,
		root:       c.Root.Clone(),
		tokens:     c.Root.Derive(nil, tokenInfo),
		wrapping:   wrap.NewCache(),
		audit:      c.Audit,
		account:    c.Account,
		region:     c.Region,
		clock:      c.Clock,
		principals: c.Principals,
		logger:     c.Logger,
		arnPrefix:  "arn:aws:kms:" + c.Region + ":" + c.Account + ":",
		managedARN: "arn:aws:kms:" + c.Region + ":" + c.Account + ":" + managedS3Alias,
		via:        []string{"s3." + c.Region + ".amazonaws.com"},
		called:     []string{"s3.amazonaws.com"},
		accountID:  []string{c.Account},
		keys:       map[keyID]*key{},
		aliases:    map[string]*alias{},
		stop:       make(chan struct{}),
		due:        make(chan struct{}, 1),
		ended:      make(chan struct{}),
	}
	if s.logger == nil {
		s.logger = slog.New(slog.DiscardHandler)
	}
	if err := s.open(c.ShredFile, c.AcceptLost); err != nil {
		return nil, errors.Join(err, s.wipe())
	}
	go s.keep()
	return s, nil
}

// Close waits for the calls that are using key material, wipes it, and closes the shred file. Later calls fail with ErrClosed.
func (s *Service) Close() error {
	if s.closed.Swap(true) {
		return ErrClosed
	}
	close(s.stop)
	<-s.ended
	s.manage.Lock()
	defer s.manage.Unlock()
	return s.wipe()
}

// wipe ends all use of secrets.
func (s *Service) wipe() error {
	s.index.RLock()
	all := make([]*key, 0, len(s.keys))
	for _, k := range s.keys {
		all = append(all, k)
	}
	s.index.RUnlock()
	for _, k := range all {
		k.wipe(s.wrapping)
	}
	s.root.Wipe()
	s.index.Lock()
	s.tokens.Wipe()
	s.index.Unlock()
	if s.shred == nil {
		return nil
	}
	return s.shred.close()
}

// OnChange registers a function that is called after the policy, the grants, the aliases or the state of a key changed: decisions about
// it may be others now. It runs in the goroutine of whoever made the change, outside all locks.
func (s *Service) OnChange(fn func(keyARN string)) {
	s.hooks.Lock()
	defer s.hooks.Unlock()
	s.onChange = append(slices.Clip(s.onChange), fn)
}

// Timed lists the ARNs of keys whose policies have conditions on the time of day: decisions about them change without any of the changes
// that OnChange tells of.
func (s *Service) Timed() []string {
	s.index.RLock()
	defer s.index.RUnlock()
	var arns []string
	for _, k := range s.keys {
		if snap := k.snapshot(); !snap.deleted() && !k.hidden && snap.policy.Volatile() {
			arns = append(arns, k.arn)
		}
	}
	return arns
}

// Epoch grows with every change that OnChange tells of.
func (s *Service) Epoch() uint64 { return s.epoch.Load() }

// notify tells of changed keys. No lock may be held.
func (s *Service) notify(arns ...string) {
	if len(arns) == 0 {
		return
	}
	s.hooks.Lock()
	hooks := s.onChange
	s.hooks.Unlock()
	for _, arn := range arns {
		for _, fn := range hooks {
			fn(arn)
		}
	}
	signal(s.due)
}

func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

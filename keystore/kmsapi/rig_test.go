package kmsapi

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"
	"github.com/aws/aws-sdk-go-v2/service/kms"

	"github.com/kmsfs/kmsfs/crypto"
	"github.com/kmsfs/kmsfs/fs/kv/ledger"
	"github.com/kmsfs/kmsfs/fs/kv/memkv"
	"github.com/kmsfs/kmsfs/fs/kv/sealed"
	"github.com/kmsfs/kmsfs/keystore"
	"github.com/kmsfs/kmsfs/keystore/audit"
	"github.com/kmsfs/kmsfs/principals"
)

const (
	account = "111122223333"
	region  = "us-east-1"
)

// movable is the clock of the keystore; signatures are made and checked by the real one.
type movable struct {
	mu  sync.Mutex
	now time.Time
}

func (c *movable) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *movable) Advance(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
}

// rig is a server on TCP and on a Unix socket, with all that is below it.
type rig struct {
	t       testing.TB
	clock   *movable
	audit   *audit.Log
	people  *principals.Store
	keys    *keystore.Service
	server  *Server
	address string // of TCP
	socket  string
	creds   map[string]aws.Credentials
	handed  atomic.Int32 // calls that had plaintext in them
}

func newRig(t testing.TB) *rig {
	t.Helper()
	dir := t.TempDir()
	r := &rig{t: t, clock: &movable{now: time.Date(2026, 11, 23, 10, 0, 0, 0, time.UTC)}, creds: map[string]aws.Credentials{}}
	rows := crypto.NewDataKey()
	l, err := ledger.Open(sealed.New(memkv.New(), rows), rows)
	r.ok(err)
	r.audit, err = audit.Open(filepath.Join(dir, "audit"), rows.Derive(nil, "audit").Expose(), audit.Options{Clock: r.clock.Now})
	r.ok(err)
	r.people, err = principals.Open(l, account, r.clock.Now)
	r.ok(err)
	r.keys, err = keystore.Open(keystore.Config{
		Ledger: l, Root: rows.Derive(nil, "root"), ShredFile: filepath.Join(dir, "shred"), Audit: r.audit, Account: account, Region: region,
		Clock: r.clock.Now, Principals: r.people,
	})
	r.ok(err)
	r.person("admin", "AdministratorAccess")
	r.server = New(Config{
		Keystore: r.keys, Principals: r.people, Clock: time.Now, Handed: func() { r.handed.Add(1) },
		PrincipalFor: func(uid uint32, name string) (string, error) {
			bound := r.people.ByUID(uid)
			if name == "" && len(bound) > 0 {
				return bound[0], nil
			}
			if slices.Contains(bound, name) {
				return name, nil
			}
			return "", os.ErrPermission
		},
	})
	r.listen(filepath.Join(dir, "kms.sock"))
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		if err := r.server.Shutdown(ctx); err != nil {
			t.Error(err)
		}
		if err := r.keys.Close(); err != nil {
			t.Error(err)
		}
		if err := r.audit.Close(); err != nil {
			t.Error(err)
		}
	})
	return r
}

func (r *rig) listen(socket string) {
	tcp, err := Listen(context.Background(), "127.0.0.1:0", false)
	r.ok(err)
	r.address, r.socket = tcp.Addr().String(), socket
	local, err := net.ListenUnix("unix", &net.UnixAddr{Name: socket, Net: "unix"})
	r.ok(err)
	for _, serve := range []func() error{func() error { return r.server.ServeTCP(tcp) }, func() error { return r.server.ServeUnix(local) }} {
		go func() {
			if err := serve(); err != nil {
				r.t.Error(err)
			}
		}()
	}
}

func (r *rig) ok(err error) {
	r.t.Helper()
	if err != nil {
		r.t.Fatal(err)
	}
}

// person makes a user with policies and an access key.
func (r *rig) person(name string, policies ...string) {
	r.t.Helper()
	_, err := r.people.Create(name, nil, policies)
	r.ok(err)
	k, secret, err := r.people.CreateAccessKey(name)
	r.ok(err)
	r.creds[name] = aws.Credentials{AccessKeyID: k.ID, SecretAccessKey: secret.Expose()}
}

// client is an unmodified client of AWS, acting as a user.
func (r *rig) client(name string) *kms.Client {
	return kms.New(kms.Options{
		Region: region, BaseEndpoint: aws.String("http://" + r.address), RetryMaxAttempts: 1,
		Credentials: aws.CredentialsProviderFunc(func(context.Context) (aws.Credentials, error) { return r.creds[name], nil }),
	})
}

// answer is what a raw call got.
type answer struct {
	status        int
	code, message string
	fields        map[string]any
	body          string
}

func (r *rig) request(op, body string) *http.Request {
	req, err := http.NewRequestWithContext(context.Background(), http.MethodPost, "http://"+r.address+"/", strings.NewReader(body))
	r.ok(err)
	req.Header.Set("Content-Type", contentType)
	req.Header.Set("X-Amz-Target", targetPrefix+op)
	return req
}

// sign signs with the signer of AWS's SDK.
func (r *rig) sign(req *http.Request, body string, creds aws.Credentials, at time.Time) {
	sum := sha256.Sum256([]byte(body))
	r.ok(v4.NewSigner().SignHTTP(context.Background(), creds, req, hex.EncodeToString(sum[:]), "kms", region, at))
}

func (r *rig) send(c *http.Client, req *http.Request) answer {
	r.t.Helper()
	resp, err := c.Do(req)
	r.ok(err)
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	r.ok(err)
	a := answer{status: resp.StatusCode, fields: map[string]any{}, body: string(b)}
	if len(b) > 0 {
		r.ok(json.Unmarshal(b, &a.fields))
	}
	a.code, _ = a.fields["__type"].(string)
	a.message, _ = a.fields["message"].(string)
	if a.code != resp.Header.Get("X-Amzn-Errortype") || len(resp.Header.Get("X-Amzn-Requestid")) != 36 || resp.Header.Get("Content-Type") != contentType {
		r.t.Errorf("headers of %s: %v", b, resp.Header)
	}
	return a
}

// call makes a signed call with a body as it is.
func (r *rig) call(name, op, body string) answer {
	r.t.Helper()
	req := r.request(op, body)
	r.sign(req, body, r.creds[name], time.Now())
	return r.send(http.DefaultClient, req)
}

// do makes a call that must work.
func (r *rig) do(name, op string, in out) map[string]any {
	r.t.Helper()
	b, err := json.Marshal(in)
	r.ok(err)
	a := r.call(name, op, string(b))
	if a.status != http.StatusOK {
		r.t.Fatalf("%s %s: %d %s", op, b, a.status, a.body)
	}
	return a.fields
}

// newKey makes a key and returns its ARN.
func (r *rig) newKey(policy string) string {
	r.t.Helper()
	in := out{"BypassPolicyLockoutSafetyCheck": true}
	if policy != "" {
		in["Policy"] = policy
	}
	m := r.do("admin", "CreateKey", in)["KeyMetadata"].(map[string]any)
	return m["Arn"].(string)
}

// wrapped is the material of every key that a test imports, for a public key.
func (r *rig) wrapped(public []byte) []byte {
	r.t.Helper()
	key, err := x509.ParsePKIXPublicKey(public)
	r.ok(err)
	b, err := rsa.EncryptOAEP(sha256.New(), rand.Reader, key.(*rsa.PublicKey), bytes.Repeat([]byte{7}, 32), nil)
	r.ok(err)
	return b
}

// imports gives a key of origin EXTERNAL its material, for good.
func (r *rig) imports(key string) {
	r.t.Helper()
	p := r.do("admin", "GetParametersForImport", out{"KeyId": key, "WrappingAlgorithm": "RSAES_OAEP_SHA_256", "WrappingKeySpec": "RSA_2048"})
	public, err := base64.StdEncoding.DecodeString(p["PublicKey"].(string))
	r.ok(err)
	r.do("admin", "ImportKeyMaterial", out{
		"KeyId": key, "ImportToken": p["ImportToken"], "EncryptedKeyMaterial": r.wrapped(public), "ExpirationModel": "KEY_MATERIAL_DOES_NOT_EXPIRE",
	})
}

func quote(s string) string {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(s); err != nil {
		panic(err)
	}
	return strings.TrimSpace(b.String())
}

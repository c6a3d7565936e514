package kmsapi

import (
	"context"
	"net"
	"net/http"
	"net/http/httptrace"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"

	"github.com/kmsfs/kmsfs/keystore/audit"
)

// TestSDKOnUnixSocket is an unmodified client of AWS without any access key: the kernel says who calls.
func TestSDKOnUnixSocket(t *testing.T) {
	r := newRig(t)
	r.ok(r.people.BindUID("admin", uint32(os.Getuid())))
	wire := &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", r.socket)
	}}}
	defer wire.CloseIdleConnections()
	c := kms.New(kms.Options{
		Region: region, BaseEndpoint: aws.String("http://kms.local"), HTTPClient: wire, RetryMaxAttempts: 1, Credentials: aws.AnonymousCredentials{},
	})
	ctx := t.Context()
	made, err := c.CreateKey(ctx, &kms.CreateKeyInput{Description: aws.String("by uid")})
	r.ok(err)
	key := made.KeyMetadata.KeyId
	_, err = c.CreateAlias(ctx, &kms.CreateAliasInput{AliasName: aws.String("alias/local"), TargetKeyId: key})
	r.ok(err)
	alias := aws.String("alias/local")

	sealed, err := c.Encrypt(ctx, &kms.EncryptInput{KeyId: alias, Plaintext: []byte("hello"), EncryptionContext: map[string]string{"a": "b"}})
	r.ok(err)
	opened, err := c.Decrypt(ctx, &kms.DecryptInput{CiphertextBlob: sealed.CiphertextBlob, EncryptionContext: map[string]string{"a": "b"}})
	r.ok(err)
	if string(opened.Plaintext) != "hello" {
		t.Errorf("%q", opened.Plaintext)
	}
	dk, err := c.GenerateDataKey(ctx, &kms.GenerateDataKeyInput{KeyId: alias, KeySpec: types.DataKeySpecAes256})
	r.ok(err)
	other, err := c.CreateKey(ctx, &kms.CreateKeyInput{})
	r.ok(err)
	moved, err := c.ReEncrypt(ctx, &kms.ReEncryptInput{CiphertextBlob: dk.CiphertextBlob, DestinationKeyId: other.KeyMetadata.KeyId})
	r.ok(err)
	if opened, err = c.Decrypt(ctx, &kms.DecryptInput{CiphertextBlob: moved.CiphertextBlob}); err != nil || string(opened.Plaintext) != string(dk.Plaintext) {
		t.Errorf("re-encrypted: %v", err)
	}

	got, err := c.GetKeyPolicy(ctx, &kms.GetKeyPolicyInput{KeyId: key})
	r.ok(err)
	_, err = c.PutKeyPolicy(ctx, &kms.PutKeyPolicyInput{KeyId: key, Policy: got.Policy})
	r.ok(err)
	r.person("bob")
	grant, err := c.CreateGrant(ctx, &kms.CreateGrantInput{KeyId: key, GranteePrincipal: userARN("bob"), Operations: []types.GrantOperation{types.GrantOperationDecrypt}})
	r.ok(err)
	_, err = c.RevokeGrant(ctx, &kms.RevokeGrantInput{KeyId: key, GrantId: grant.GrantId})
	r.ok(err)
	_, err = c.EnableKeyRotation(ctx, &kms.EnableKeyRotationInput{KeyId: key, RotationPeriodInDays: aws.Int32(90)})
	r.ok(err)
	status, err := c.GetKeyRotationStatus(ctx, &kms.GetKeyRotationStatusInput{KeyId: key})
	r.ok(err)
	if !status.KeyRotationEnabled || aws.ToInt32(status.RotationPeriodInDays) != 90 {
		t.Errorf("%+v", status)
	}
	out, err := c.ScheduleKeyDeletion(ctx, &kms.ScheduleKeyDeletionInput{KeyId: key, PendingWindowInDays: aws.Int32(7)})
	r.ok(err)
	if out.KeyState != types.KeyStatePendingDeletion {
		t.Errorf("%+v", out)
	}
	if _, err := c.Encrypt(ctx, &kms.EncryptInput{KeyId: key, Plaintext: []byte("x")}); !isError[*types.KMSInvalidStateException](err) {
		t.Errorf("under a key that is to be deleted: %v", err)
	}

	var who []string
	r.ok(r.audit.Query(audit.Filter{}, func(e audit.Event) error {
		who = append(who, e.UserIdentity.UserName)
		return nil
	}))
	if got := strings.Join(who, " "); strings.Trim(got, "admin ") != "" || len(who) < 14 {
		t.Errorf("%d events by %s", len(who), got)
	}
	r.ok(r.people.UnbindUID("admin", uint32(os.Getuid())))
	if _, err := c.ListKeys(ctx, &kms.ListKeysInput{}); err == nil || !strings.Contains(err.Error(), "AccessDenied") {
		t.Errorf("a uid of nobody: %v", err)
	}
}

// TestTricklers: connections that say their request one byte at a time, more than there may be, keep nobody waiting; nor is one that has
// shown a valid signature closed for them.
func TestTricklers(t *testing.T) {
	r := newRig(t)
	r.person("alice")
	key := r.newKey("")
	body := `{"KeyId":"` + key + `"}`
	wire := &http.Client{Transport: &http.Transport{MaxConnsPerHost: 1}}
	defer wire.CloseIdleConnections()
	call := func() (reused bool) {
		req := r.request("DescribeKey", body)
		r.sign(req, body, r.creds["admin"], time.Now())
		req = req.WithContext(httptrace.WithClientTrace(req.Context(), &httptrace.ClientTrace{GotConn: func(c httptrace.GotConnInfo) { reused = c.Reused }}))
		if a := r.send(wire, req); a.status != http.StatusOK {
			t.Errorf("%d %s", a.status, a.body)
		}
		return reused
	}
	call()
	head := "POST / HTTP/1.1\r\nHost: kms\r\nContent-Length: 100\r\n"
	for i := range 3 * maxConnections {
		c, err := net.Dial("tcp", r.address)
		r.ok(err)
		defer c.Close()
		said := head[:1+i%len(head)]
		if i%3 == 0 {
			said = head + "\r\n{" // a body that does not end
		}
		_, err = c.Write([]byte(said))
		r.ok(err)
	}
	if !call() {
		t.Error("a connection that had shown who it is was closed")
	}
	began := time.Now()
	fresh := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	req := r.request("DescribeKey", body)
	r.sign(req, body, r.creds["admin"], time.Now())
	if a := r.send(fresh, req); a.status != http.StatusOK {
		t.Errorf("%d %s", a.status, a.body)
	}
	if took := time.Since(began); took > 5*time.Second { // the tricklers are hung up on after ten at the earliest
		t.Errorf("another waits for %v", took)
	}
}

package keystore

import (
	"bytes"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"testing"
	"time"

	"github.com/kmsfs/kmsfs/crypto"
	"github.com/kmsfs/kmsfs/keystore/audit"
)

// parameters is material as a client sends it, with the token for it.
func (w *world) parameters(c *Call, arn string, material []byte) (token, encrypted []byte) {
	w.t.Helper()
	p, err := w.GetParametersForImport(c, arn, "RSAES_OAEP_SHA_256", "RSA_2048")
	must(w.t, err)
	return p.Token, w.wrapped(p, material)
}

func (w *world) wrapped(p ImportParameters, material []byte) []byte {
	w.t.Helper()
	public, err := x509.ParsePKIXPublicKey(p.PublicKey)
	must(w.t, err)
	encrypted, err := rsa.EncryptOAEP(sha256.New(), rand.Reader, public.(*rsa.PublicKey), material, nil)
	must(w.t, err)
	return encrypted
}

// imports imports and returns the material's id.
func (w *world) imports(arn string, material []byte, until time.Time) string {
	w.t.Helper()
	token, encrypted := w.parameters(w.admin(), arn, material)
	_, id, err := w.ImportKeyMaterial(w.admin(), arn, token, encrypted, until)
	must(w.t, err)
	return id
}

func external1(t *testing.T, w *world) string {
	t.Helper()
	m, err := w.CreateKey(w.admin(), CreateKeyInput{Origin: "EXTERNAL"})
	must(t, err)
	if m.State != PendingImport || m.Enabled || m.CurrentMaterialID != "" || m.Origin != "EXTERNAL" || m.ExpirationModel != "" {
		t.Errorf("%+v", m)
	}
	return m.ARN
}

func TestImport(t *testing.T) {
	w := newWorld(t)
	c := w.admin()
	arn := external1(t, w)
	material := bytes.Repeat([]byte{7}, 32)
	_, _, _, err := w.GenerateDataKey(c, arn, nil)
	wants(t, err, CodeInvalidState, arn+" is pending import.")
	wants(t, w.EnableKey(c, arn), CodeInvalidState, arn+" is pending import.")
	w.reopen()
	id := w.imports(arn, material, time.Time{})
	m, err := w.DescribeKey(c, arn)
	must(t, err)
	if m.State != Enabled || m.CurrentMaterialID != id || m.ExpirationModel != "KEY_MATERIAL_DOES_NOT_EXPIRE" {
		t.Errorf("%+v", m)
	}
	dk, wrapped := w.generate(c, arn, payContext)
	same := func() {
		t.Helper()
		again, err := w.Decrypt(c, wrapped, payContext)
		must(t, err)
		if !again.Equal(dk) {
			t.Error("another data key")
		}
	}
	w.reopen()
	same()
	wants(t, w.EnableKeyRotation(c, arn, 0), CodeUnsupportedOperation, arn+" origin is EXTERNAL which is not valid for this operation.")
	wants(t, w.RotateKeyOnDemand(c, arn), CodeInvalidState, "No available key material pending rotation for the key: "+arn+".")

	slot, blob := w.find1(arn).Slot, w.find1(arn).current().Wrapped
	_, gone, err := w.DeleteImportedKeyMaterial(c, arn)
	must(t, err)
	m, err = w.DescribeKey(c, arn)
	must(t, err)
	if gone != id || m.State != PendingImport || m.CurrentMaterialID != id || m.ExpirationModel != "" {
		t.Errorf("%+v", m)
	}
	_, err = w.Decrypt(c, wrapped, payContext)
	wants(t, err, CodeInvalidState, arn+" is pending import.")
	if now := w.find1(arn).Slot; now == slot {
		t.Error("the slot is the same")
	} else {
		k, _, _ := w.find(arn, false)
		mid, _ := parseMaterialID(id)
		key, err := w.shred.wrapping(w.root, now, k.id)
		must(t, err)
		if _, err := openMaterial(key, k.id, mid, blob); err == nil {
			t.Error("the new slot opens the deleted material")
		}
		if _, err := w.shred.wrapping(w.root, slot, k.id); err == nil {
			t.Error("the old slot is still there")
		}
	}
	_, _, err = w.DeleteImportedKeyMaterial(c, arn) // no effect
	must(t, err)
	w.reopen()

	token, encrypted := w.parameters(c, arn, bytes.Repeat([]byte{8}, 32))
	_, _, err = w.ImportKeyMaterial(c, arn, token, encrypted, time.Time{})
	wants(t, err, CodeIncorrectKeyMaterial, "*")
	if again := w.imports(arn, material, time.Time{}); again != id {
		t.Errorf("the same material has the id %s, had %s", again, id)
	}
	same()
	if again := w.imports(arn, material, w.clock.Now().Add(day)); again != id { // onto what is there: a new date
		t.Error("another id")
	}
	same()
}

func TestImportedMaterialExpires(t *testing.T) {
	w := newWorld(t)
	c := w.admin()
	arn := external1(t, w)
	material := bytes.Repeat([]byte{7}, 32)
	w.imports(arn, material, w.clock.Now().Add(10*day))
	_, wrapped := w.generate(c, arn, payContext)
	w.clock.Advance(10*day - time.Second)
	_, err := w.Decrypt(c, wrapped, payContext)
	must(t, err)
	w.clock.Advance(time.Second)
	_, err = w.Decrypt(c, wrapped, payContext)
	wants(t, err, CodeInvalidState, arn+" is pending import.")
	if n := len(w.events(audit.Filter{Name: "DeleteExpiredKeyMaterial"})); n != 1 {
		t.Errorf("%d events of the expiry", n)
	}
	w.reopen()
	w.imports(arn, material, w.clock.Now().Add(5*day))
	must(t, w.DisableKey(c, arn))
	// What expires while a deletion is pending is gone when the deletion is cancelled.
	_, err = w.ScheduleKeyDeletion(c, arn, 30)
	must(t, err)
	w.clock.Advance(6 * day)
	must(t, w.CancelKeyDeletion(c, arn))
	m, err := w.DescribeKey(c, arn)
	must(t, err)
	if m.State != PendingImport || w.find1(arn).current().Wrapped != nil {
		t.Errorf("%+v", m)
	}
	_, err = w.ScheduleKeyDeletion(c, arn, 7)
	must(t, err)
	w.reopen()
	must(t, w.CancelKeyDeletion(c, arn))
	if st := w.find1(arn).State; st != PendingImport {
		t.Errorf("a key without material became %s", st)
	}
	w.imports(arn, material, time.Time{})
	_, err = w.ScheduleKeyDeletion(c, arn, 7)
	must(t, err)
	w.clock.Advance(8 * day)
	_, err = w.Decrypt(c, wrapped, payContext)
	wants(t, err, CodeNotFound, "*")
}

func TestImportRefusals(t *testing.T) {
	w := newWorld(t)
	c := w.admin()
	arn, own := external1(t, w), w.key("default")
	other := external1(t, w)
	material := bytes.Repeat([]byte{7}, 32)
	token, encrypted := w.parameters(c, arn, material)
	do := func(arn string, token, encrypted []byte, until time.Time) error {
		_, _, err := w.ImportKeyMaterial(c, arn, token, encrypted, until)
		return err
	}
	_, err := w.GetParametersForImport(c, own, "RSAES_OAEP_SHA_256", "RSA_2048")
	wants(t, err, CodeUnsupportedOperation, own+" origin is AWS_KMS which is not valid for this operation.")
	_, err = w.GetParametersForImport(c, arn, "RSA_AES_KEY_WRAP_SHA_256", "RSA_2048")
	wants(t, err, CodeUnsupportedOperation, "*")
	wants(t, do(own, token, encrypted, time.Time{}), CodeUnsupportedOperation, "*")
	wants(t, do(other, token, encrypted, time.Time{}), CodeInvalidImportToken, "")
	wants(t, do(arn, nil, encrypted, time.Time{}), CodeInvalidImportToken, "")
	wants(t, do(arn, token[:len(token)-1], encrypted, time.Time{}), CodeInvalidImportToken, "")
	for _, i := range []int{0, 5, 20, len(token) - 1} {
		bad := bytes.Clone(token)
		bad[i] ^= 1
		wants(t, do(arn, bad, encrypted, time.Time{}), CodeInvalidImportToken, "")
	}
	wants(t, do(arn, token, encrypted[1:], time.Time{}), CodeInvalidCiphertext, "")
	p, err := w.GetParametersForImport(c, arn, "RSAES_OAEP_SHA_256", "RSA_2048")
	must(t, err)
	zero := w.wrapped(p, material)
	for zero[0] != 0 { // one of 256, more or less
		zero = w.wrapped(p, material)
	}
	wants(t, do(arn, p.Token, zero[1:], time.Time{}), CodeInvalidCiphertext, "") // the same number with a byte less
	wants(t, do(arn, token, encrypted, w.clock.Now()), CodeValidation, "*")
	wants(t, do(arn, token, encrypted, w.clock.Now().Add(366*day)), CodeValidation, "*")
	short, sealed := w.parameters(c, arn, material[:16])
	wants(t, do(arn, short, sealed, time.Time{}), CodeIncorrectKeyMaterial, "*")
	_, _, err = w.ImportKeyMaterial(as(t, "bob", "s3full"), arn, token, encrypted, time.Time{})
	wants(t, err, CodeAccessDenied, "*")
	_, _, err = w.DeleteImportedKeyMaterial(c, own)
	wants(t, err, CodeUnsupportedOperation, "*")
	w.clock.Advance(24 * time.Hour)
	wants(t, do(arn, token, encrypted, time.Time{}), CodeExpiredImportToken, "")
	if st := w.find1(arn).State; st != PendingImport {
		t.Errorf("refused imports made the key %s", st)
	}
	token, encrypted = w.parameters(c, arn, material)
	_, err = w.ScheduleKeyDeletion(c, arn, 7)
	must(t, err)
	wants(t, do(arn, token, encrypted, time.Time{}), CodeInvalidState, arn+" is pending deletion.")
	must(t, w.Close())
	if err := do(arn, token, encrypted, time.Time{}); err == nil || !errors.Is(err, ErrClosed) && Code(err) != CodeInternal {
		t.Errorf("closed: %v", err)
	}
}

// TestMaterialGoesWhileInUse: calls under way end well or are told that the material is gone.
func TestMaterialGoesWhileInUse(t *testing.T) {
	w := newWorld(t)
	arn := external1(t, w)
	material := bytes.Repeat([]byte{7}, 32)
	w.imports(arn, material, time.Time{})
	_, wrapped := w.generate(w.admin(), arn, payContext)
	stop, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		c := w.admin()
		for {
			select {
			case <-stop:
				return
			default:
			}
			if dk, err := w.Decrypt(c, wrapped, payContext); err == nil {
				dk.Wipe()
			} else if code := Code(err); code != CodeInvalidState && code != CodeInvalidCiphertext {
				t.Error(err)
			}
			if dk, _, _, err := w.GenerateDataKey(c, arn, nil); err == nil {
				dk.Wipe()
			} else if Code(err) != CodeInvalidState {
				t.Error(err)
			}
		}
	}()
	for range 5 {
		_, _, err := w.DeleteImportedKeyMaterial(w.admin(), arn)
		must(t, err)
		w.imports(arn, material, time.Time{})
	}
	close(stop)
	<-ended
}

// TestInspect opens data keys for a checker: under the store key, a disabled key and a bucket key, and says why one cannot be opened.
func TestInspect(t *testing.T) {
	w := newWorld(t)
	c := w.admin()
	opens := func(what string, want *crypto.DataKey, wrapped crypto.WrappedKey, ctx crypto.Context) {
		t.Helper()
		dk, err := w.Inspect(wrapped, ctx)
		if err != nil || !dk.Equal(want) {
			t.Fatalf("%s: %v", what, err)
		}
	}
	dk, wrapped, err := w.GenerateStoreKey(nil)
	must(t, err)
	opens("the store key", dk, wrapped, nil)
	_, err = w.Inspect(wrapped, payContext)
	wants(t, err, CodeInvalidCiphertext, "")

	arn := w.key("root")
	under, outer := w.generate(c, arn, payContext)
	local, err := WrapLocal(under, outer, dk)
	must(t, err)
	must(t, w.DisableKey(c, arn))
	before := len(w.events(audit.Filter{}))
	opens("a disabled key", under, outer, payContext)
	opens("a bucket key", dk, local, payContext)
	must(t, w.Standing(arn))
	_, err = w.Inspect(outer, nil)
	wants(t, err, CodeInvalidCiphertext, "")
	if n := len(w.events(audit.Filter{})); n != before {
		t.Errorf("%d events were written", n-before)
	}

	own := external1(t, w)
	material := bytes.Repeat([]byte{9}, 32)
	w.imports(own, material, time.Time{})
	_, imported := w.generate(c, own, payContext)
	_, _, err = w.DeleteImportedKeyMaterial(c, own)
	must(t, err)
	_, err = w.Inspect(imported, payContext)
	wants(t, err, CodeInvalidState, own+" is pending import.")
	wants(t, w.Standing(own), CodeInvalidState, own+" is pending import.")
	_, err = w.ScheduleKeyDeletion(c, arn, 7)
	must(t, err)
	must(t, w.Standing(arn))
	w.clock.Advance(8 * day)
	w.reopen()
	_, err = w.Inspect(local, payContext)
	wants(t, err, CodeNotFound, "Key '"+arn+"' does not exist")
	wants(t, w.Standing(arn), CodeNotFound, "Key '"+arn+"' does not exist")
}

// TestImportConditions: what a key policy may ask of the calls that bring material.
func TestImportConditions(t *testing.T) {
	w := newWorld(t)
	arn, material := external1(t, w), bytes.Repeat([]byte{7}, 32)
	text := `{"Version":"2012-10-17","Statement":[
		{"Effect":"Allow","Principal":{"AWS":"` + userARN("admin") + `"},"Action":"kms:*","Resource":"*"},
		{"Effect":"Allow","Principal":{"AWS":"` + userARN("alice") + `"},"Action":"kms:*","Resource":"*","Condition":{
			"StringEqualsIfExists":{"kms:WrappingAlgorithm":"RSAES_OAEP_SHA_256","kms:ExpirationModel":"KEY_MATERIAL_EXPIRES"},
			"StringNotEqualsIfExists":{"kms:WrappingKeySpec":"RSA_2048"},
			"DateLessThanIfExists":{"kms:ValidTo":"2026-12-01T00:00:00Z"}}}]}`
	must(t, w.PutKeyPolicy(w.admin(), arn, []byte(text), false))
	alice := as(t, "alice", "none")
	get := func(algorithm, spec string) error {
		_, err := w.GetParametersForImport(alice, arn, algorithm, spec)
		return err
	}
	wants(t, get("RSAES_OAEP_SHA_1", "RSA_3072"), CodeAccessDenied, "*")
	wants(t, get("RSAES_OAEP_SHA_256", "RSA_2048"), CodeAccessDenied, "*")
	must(t, get("RSAES_OAEP_SHA_256", "RSA_3072"))
	token, encrypted := w.parameters(w.admin(), arn, material)
	put := func(until time.Time) error {
		return third(w.ImportKeyMaterial(alice, arn, token, encrypted, until))
	}
	wants(t, put(time.Time{}), CodeAccessDenied, "*")
	wants(t, put(w.clock.Now().Add(300*day)), CodeAccessDenied, "*")
	must(t, put(w.clock.Now().Add(time.Hour)))
}

package kmsapi

import (
	"bufio"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/kmsfs/kmsfs/keystore"
	"github.com/kmsfs/kmsfs/keystore/audit"
)

const (
	one     = "1 validation error detected: "
	noSuch  = "12345678-1234-1234-1234-123456789012"
	serial  = codeSerialization
	invalid = keystore.CodeValidation
)

// TestMalformedCalls: every bad input gets its error of AWS, changes nothing and leaves no event.
func TestMalformedCalls(t *testing.T) {
	r := newRig(t)
	key := r.newKey("")
	id := key[strings.LastIndexByte(key, '/')+1:]
	long := func(n int) string { return strings.Repeat("a", n) }
	blob := func(n int) string { return base64.StdEncoding.EncodeToString(make([]byte, n)) }
	for _, c := range []struct{ op, body, code, message string }{
		// JSON
		{"ListKeys", `{`, serial, "Could not parse request body into json"},
		{"ListKeys", `{"Limit":1} x`, serial, "*"},
		{"ListKeys", `{"Limit":1}{}`, serial, "*"},
		{"ListKeys", `[]`, serial, "START_ARRAY cannot be converted to Structure"},
		{"ListKeys", `null`, serial, "NULL_VALUE cannot be converted to Structure"},
		{"ListKeys", `"x"`, serial, "*"},
		{"ListKeys", "{\"Marker\":\"\xff\"}", serial, "The request body is not UTF-8"},
		{"ListKeys", `{"Limit":1,"Limit":2}`, serial, "Duplicate field 'Limit'"},
		{"Encrypt", `{"EncryptionContext":{"a":"1","a":"2"}}`, serial, "Duplicate field 'a'"},
		{"ListKeys", strings.Repeat(`{"a":`, 9) + "1" + strings.Repeat("}", 9), serial, "*"},
		{"ListKeys", `{"Limit":"1"}`, serial, "STRING_VALUE cannot be converted to Integer"},
		{"ListKeys", `{"Limit":1.5}`, serial, "NUMBER_VALUE cannot be converted to Integer"},
		{"ListKeys", `{"Limit":1e99}`, serial, "*"},
		{"DescribeKey", `{"KeyId":7}`, serial, "NUMBER_VALUE cannot be converted to String"},
		{"DescribeKey", `{"KeyId":["x"]}`, serial, "START_ARRAY cannot be converted to String"},
		{"DescribeKey", `{"KeyId":"x","GrantTokens":"x"}`, serial, "STRING_VALUE cannot be converted to List"},
		{"CreateKey", `{"MultiRegion":"true"}`, serial, "STRING_VALUE cannot be converted to Boolean"},
		{"CreateKey", `{"Tags":["x"]}`, serial, "STRING_VALUE cannot be converted to Structure"},
		{"Encrypt", `{"KeyId":"x","Plaintext":"?"}`, serial, "The value of 'plaintext' is not base64"},
		{"Encrypt", `{"KeyId":"x","Plaintext":true}`, serial, "TRUE_VALUE cannot be converted to Blob"},
		{"Encrypt", `{"KeyId":"x","Plaintext":"eA==","EncryptionContext":{"a":1}}`, serial, "*"},
		{"Encrypt", `{"KeyId":"x","Plaintext":"eA==","EncryptionContext":"a"}`, serial, "STRING_VALUE cannot be converted to Map"},
		// shapes
		{"DescribeKey", `{}`, invalid, one + "Value null at 'keyId' failed to satisfy constraint: Member must not be null"},
		{"DescribeKey", ``, invalid, one + "Value null at 'keyId' failed to satisfy constraint: Member must not be null"},
		{"DescribeKey", `{"keyid":"x"}`, invalid, "*"}, // names are case-sensitive
		{"DescribeKey", `{"KeyId":""}`, invalid, one + "Value '' at 'keyId' failed to satisfy constraint: Member must have length greater than or equal to 1"},
		{"DescribeKey", `{"KeyId":"` + long(2049) + `"}`, invalid, "*"},
		{"CreateAlias", `{}`, invalid, "2 validation errors detected: Value null at 'aliasName' failed to satisfy constraint: Member must not be null; " +
			"Value null at 'targetKeyId' failed to satisfy constraint: Member must not be null"},
		{"Encrypt", `{"KeyId":"x","Plaintext":"` + blob(4097) + `"}`, invalid, one + "Value at 'plaintext' failed to satisfy constraint: Member must have length less than or equal to 4096"},
		{"Encrypt", `{"KeyId":"x","Plaintext":""}`, invalid, one + "Value at 'plaintext' failed to satisfy constraint: Member must have length greater than or equal to 1"},
		{"Encrypt", `{"KeyId":"x"}`, invalid, "*"},
		{"Decrypt", `{"CiphertextBlob":"` + blob(6145) + `"}`, invalid, one + "Value at 'ciphertextBlob' failed to satisfy constraint: Member must have length less than or equal to 6144"},
		{"GenerateDataKey", `{"KeyId":"x","KeySpec":"AES_512"}`, invalid, one + "Value 'AES_512' at 'keySpec' failed to satisfy constraint: Member must satisfy enum value set: [AES_256, AES_128]"},
		{"GenerateDataKey", `{"KeyId":"x","NumberOfBytes":0}`, invalid, one + "Value '0' at 'numberOfBytes' failed to satisfy constraint: Member must have value greater than or equal to 1"},
		{"GenerateDataKey", `{"KeyId":"x","NumberOfBytes":1025}`, invalid, one + "Value '1025' at 'numberOfBytes' failed to satisfy constraint: Member must have value less than or equal to 1024"},
		{"GenerateDataKey", `{"KeyId":"x"}`, invalid, "Please specify either number of bytes or key spec."},
		{"GenerateDataKey", `{"KeyId":"x","KeySpec":"AES_256","NumberOfBytes":1}`, invalid, "Please specify either number of bytes or key spec, but not both."},
		{"GenerateRandom", `{}`, invalid, "*"},
		{"GenerateRandom", `{"NumberOfBytes":-1}`, invalid, "*"},
		{"ListKeys", `{"Limit":0}`, invalid, "*"},
		{"ListKeys", `{"Limit":1001}`, invalid, "*"},
		{"ListGrants", `{"KeyId":"x","Limit":101}`, invalid, "*"},
		{"ScheduleKeyDeletion", `{"KeyId":"x","PendingWindowInDays":6}`, invalid, one + "Value '6' at 'pendingWindowInDays' failed to satisfy constraint: Member must have value greater than or equal to 7"},
		{"EnableKeyRotation", `{"KeyId":"x","RotationPeriodInDays":2561}`, invalid, "*"},
		{"CreateKey", `{"Description":"` + long(8193) + `"}`, invalid, one + "Value at 'description' failed to satisfy constraint: Member must have length less than or equal to 8192"},
		{"CreateKey", `{"KeySpec":"AES","KeyUsage":"X"}`, invalid, "2 validation errors detected: *"},
		{"CreateKey", `{"KeySpec":"SYMMETRIC_DEFAULT","CustomerMasterKeySpec":"SYMMETRIC_DEFAULT"}`, invalid, "You cannot specify KeySpec and CustomerMasterKeySpec*"},
		{"CreateKey", `{"Tags":[{"TagKey":"","TagValue":"x"}]}`, invalid, one + "Value '' at 'tags.1.member.tagKey' failed to satisfy constraint: Member must have length greater than or equal to 1"},
		{"CreateKey", `{"Tags":[{"TagKey":"a"}]}`, invalid, one + "Value null at 'tags.1.member.tagValue' failed to satisfy constraint: Member must not be null"},
		{"CreateKey", `{"Tags":[{"TagKey":"a","TagValue":""},{"TagKey":"a","TagValue":"x"}]}`, keystore.CodeTag, "Duplicate tag keys"},
		{"CreateKey", `{"Tags":[{"TagKey":"aws:a","TagValue":""}]}`, keystore.CodeTag, "Tags beginning with aws: are reserved"},
		{"CreateKey", `{"Policy":"{"}`, keystore.CodeMalformedPolicy, "*"},
		{"CreateKey", `{"Policy":""}`, invalid, "*"},
		{"CreateKey", `{"KeySpec":"RSA_2048","KeyUsage":"SIGN_VERIFY"}`, keystore.CodeUnsupportedOperation, "*"},
		{"CreateKey", `{"MultiRegion":true}`, keystore.CodeUnsupportedOperation, "*"},
		{"CreateKey", `{"CustomKeyStoreId":"cks-1"}`, keystore.CodeUnsupportedOperation, "*"},
		{"Sign", `{}`, keystore.CodeUnsupportedOperation, "*"},
		{"CreateGrant", `{"KeyId":"x","Operations":["Decrypt"]}`, invalid, one + "Value null at 'granteePrincipal' failed to satisfy constraint: Member must not be null"},
		{"CreateGrant", `{"KeyId":"x","GranteePrincipal":"x","Operations":[]}`, invalid, "*"},
		{"CreateGrant", `{"KeyId":"x","GranteePrincipal":"x","Operations":["Fly"]}`, invalid, one + "Value 'Fly' at 'operations.1.member' failed to satisfy constraint: Member must satisfy enum value set: *"},
		{"CreateGrant", `{"KeyId":"x","GranteePrincipal":"x","Operations":["Decrypt"],"Name":"a b"}`, invalid, one + "Value 'a b' at 'name' failed to satisfy constraint: Member must satisfy regular expression pattern: ^[a-zA-Z0-9:/_-]+$"},
		{"CreateGrant", `{"KeyId":"` + id + `","GranteePrincipal":"x","Operations":["Decrypt"]}`, keystore.CodeInvalidARN, "*"},
		{"CreateGrant", `{"KeyId":"` + id + `","GranteePrincipal":"` + *userARN("bob") + `","Operations":["Decrypt"],"Constraints":{"EncryptionContextEqual":{"a":"b"}}}`, invalid, one + "Value at 'constraints.EncryptionContextEqual' failed to satisfy constraint: Member must be one of: *"},
		{"ListRetirableGrants", `{"RetiringPrincipal":"x"}`, keystore.CodeInvalidARN, "*"},
		{"CreateGrant", `{"KeyId":"x","GranteeServicePrincipal":"x","Operations":["Decrypt"]}`, keystore.CodeUnsupportedOperation, "*"},
		{"RetireGrant", `{}`, invalid, "*"},
		{"RetireGrant", `{"GrantToken":"x"}`, keystore.CodeInvalidGrantToken, ""},
		{"RevokeGrant", `{"KeyId":"` + id + `","GrantId":"x"}`, keystore.CodeInvalidGrantID, "*"},
		{"Encrypt", `{"KeyId":"` + id + `","Plaintext":"eA==","GrantTokens":["x"]}`, keystore.CodeInvalidGrantToken, ""},
		{"PutKeyPolicy", `{"KeyId":"` + id + `","Policy":"{}","PolicyName":"other"}`, keystore.CodeNotFound, "No such policy exists"},
		{"GetKeyPolicy", `{"KeyId":"` + id + `","PolicyName":"other"}`, keystore.CodeNotFound, "No such policy exists"},
		// the keystore's, in its words
		{"DescribeKey", `{"KeyId":"nope"}`, keystore.CodeNotFound, "Invalid keyId 'nope'"},
		{"DescribeKey", `{"KeyId":"` + noSuch + `"}`, keystore.CodeNotFound, "Key 'arn:aws:kms:us-east-1:111122223333:key/" + noSuch + "' does not exist"},
		{"DescribeKey", `{"KeyId":"arn:aws:kms:eu-west-1:111122223333:key/` + noSuch + `"}`, keystore.CodeNotFound, "Invalid arn eu-west-1"},
		{"EnableKey", `{"KeyId":"alias/x"}`, keystore.CodeNotFound, "Invalid keyId 'alias/x'"},
		{"CreateAlias", `{"AliasName":"x","TargetKeyId":"` + id + `"}`, invalid, `Alias must start with the prefix "alias/". Please see https://docs.aws.amazon.com/kms/latest/developerguide/kms-alias.html`},
		{"CreateAlias", `{"AliasName":"alias/aws/x","TargetKeyId":"` + id + `"}`, keystore.CodeInvalidAliasName, "*"},
		{"Decrypt", `{"CiphertextBlob":"` + blob(200) + `"}`, keystore.CodeInvalidCiphertext, ""},
		{"Encrypt", `{"KeyId":"` + id + `","Plaintext":"eA==","EncryptionAlgorithm":"RSAES_OAEP_SHA_256"}`, codeInvalidKeyUsage, "*"},
		{"Encrypt", `{"KeyId":"` + id + `","Plaintext":"eA==","EncryptionAlgorithm":"ROT13"}`, invalid, "*"},
		{"ListKeys", `{"Marker":"x"}`, codeInvalidMarker, "Could not deserialize marker 'x'"},
		{"Fly", `{}`, codeUnknownOperation, "Unknown operation 'Fly'."},
		{"", `{}`, codeUnknownOperation, "*"},
	} {
		epoch := r.keys.Epoch()
		a := r.call("admin", c.op, c.body)
		prefix, open := strings.CutSuffix(c.message, "*")
		if a.status != http.StatusBadRequest || a.code != c.code || a.message != c.message && (!open || !strings.HasPrefix(a.message, prefix)) {
			t.Errorf("%s %.200s: %d %s %q, want %s %q", c.op, c.body, a.status, a.code, a.message, c.code, c.message)
		}
		if r.keys.Epoch() != epoch {
			t.Errorf("%s %.200s changed something", c.op, c.body)
		}
	}
	if n := len(r.do("admin", "ListKeys", out{})["Keys"].([]any)); n != 1 {
		t.Errorf("%d keys", n)
	}
}

// TestMalformedPolicies: a key policy that is wrong gets its error and leaves the one that is there.
func TestMalformedPolicies(t *testing.T) {
	r := newRig(t)
	key := r.newKey("")
	const ok = `{"Effect":"Allow","Principal":{"AWS":"arn:aws:iam::111122223333:root"},"Action":"kms:*","Resource":"*"}`
	statement := func(s string) string { return `{"Version":"2012-10-17","Statement":[` + ok + `,` + s + `]}` }
	with := func(member, value string) string {
		m := map[string]string{"Effect": `"Allow"`, "Principal": `"*"`, "Action": `"kms:*"`, "Resource": `"*"`}
		m[member] = value
		var parts []string
		for k, v := range m {
			if v != "" {
				parts = append(parts, `"`+k+`":`+v)
			}
		}
		return statement(`{` + strings.Join(parts, ",") + `}`)
	}
	shown := r.do("admin", "GetKeyPolicy", out{"KeyId": key})["Policy"]
	epoch := r.keys.Epoch()
	for _, c := range []struct{ policy, code, message string }{
		{`{`, keystore.CodeMalformedPolicy, "*"},
		{`[]`, keystore.CodeMalformedPolicy, "*"},
		{`{}`, keystore.CodeMalformedPolicy, "*"},
		{`{"Version":"2012-10-17"}`, keystore.CodeMalformedPolicy, "*"},
		{`{"Version":"2020-01-01","Statement":[` + ok + `]}`, keystore.CodeMalformedPolicy, "*"},
		{`{"Version":"2012-10-17","Statement":[` + ok + `],"Statement":[]}`, keystore.CodeMalformedPolicy, "*"},
		{statement(`7`), keystore.CodeMalformedPolicy, "*"},
		{with("Effect", `"Maybe"`), keystore.CodeMalformedPolicy, "*"},
		{with("Effect", ""), keystore.CodeMalformedPolicy, "*"},
		{with("Principal", ""), keystore.CodeMalformedPolicy, "*"},
		{with("Principal", `{"AWS":[]}`), keystore.CodeMalformedPolicy, "*"},
		{with("Principal", `{"AWS":"arn:aws:iam::111122223333:group/g"}`), keystore.CodeMalformedPolicy, "*"},
		{with("Principal", `{"AWS":"arn:aws:iam::111122223333:user/al*"}`), keystore.CodeMalformedPolicy, "*"},
		{with("Principal", `{"AWS":"nobody"}`), keystore.CodeMalformedPolicy, "*"},
		{
			with("Principal", `{"AWS":"arn:aws:iam::111122223333:user/ghost"}`), keystore.CodeMalformedPolicy,
			"Policy contains a statement with one or more invalid principals: arn:aws:iam::111122223333:user/ghost",
		},
		{
			with("Principal", `{"AWS":"AIDAZZZZZZZZZZZZZZZZZ"}`), keystore.CodeMalformedPolicy,
			"Policy contains a statement with one or more invalid principals: AIDAZZZZZZZZZZZZZZZZZ",
		},
		{with("Action", `"Decrypt"`), keystore.CodeMalformedPolicy, "*"},
		{with("Action", `7`), keystore.CodeMalformedPolicy, "*"},
		{with("Condition", `{"StringLikes":{"aws:username":"x"}}`), keystore.CodeMalformedPolicy, "*"},
		{with("Condition", `{"DateLessThan":{"aws:CurrentTime":"soon"}}`), keystore.CodeMalformedPolicy, "*"},
		{with("Condition", `{"ForAllValues:StringEquals":{"kms:EncryptionContext:a":"x"}}`), keystore.CodeMalformedPolicy, "*"},
		{with("Nonsense", `"x"`), keystore.CodeMalformedPolicy, "*"},
		{with("Sid", `"`+"\u0001"+`"`), keystore.CodeMalformedPolicy, "*"},
		{statement(ok) + strings.Repeat(" ", 33<<10), keystore.CodeLimitExceeded, "*"},
		{
			`{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Principal":{"AWS":"arn:aws:iam::111122223333:root"},"Action":"kms:Decrypt","Resource":"*"}]}`,
			keystore.CodeMalformedPolicy, "The new key policy will not allow you to update the key policy in the future.",
		},
	} {
		body, err := json.Marshal(map[string]string{"KeyId": key, "Policy": c.policy})
		if err != nil {
			t.Fatal(err)
		}
		a := r.call("admin", "PutKeyPolicy", string(body))
		if a.status != http.StatusBadRequest || a.code != c.code || c.message != "*" && a.message != c.message {
			t.Errorf("%.300s: %d %s %q, want %s %q", c.policy, a.status, a.code, a.message, c.code, c.message)
		}
	}
	if now := r.do("admin", "GetKeyPolicy", out{"KeyId": key})["Policy"]; now != shown || r.keys.Epoch() != epoch {
		t.Errorf("a refused policy changed something: %v", now)
	}
	// An encryption context that is too large, and one that is no map of strings.
	big, err := json.Marshal(map[string]any{"KeyId": key, "Plaintext": "eA==", "EncryptionContext": map[string]string{"k": strings.Repeat("v", 8192)}})
	if err != nil {
		t.Fatal(err)
	}
	if a := r.call("admin", "Encrypt", string(big)); a.code != invalid {
		t.Errorf("a large context: %d %s %s", a.status, a.code, a.message)
	}
}

// TestRequests: what is no call of the protocol at all.
func TestRequests(t *testing.T) {
	r := newRig(t)
	for name, c := range map[string]struct {
		change func(*http.Request)
		code   string
	}{
		"no target":            {func(q *http.Request) { q.Header.Del("X-Amz-Target") }, codeUnknownOperation},
		"another service":      {func(q *http.Request) { q.Header.Set("X-Amz-Target", "DynamoDB_20120810.ListTables") }, codeUnknownOperation},
		"another path":         {func(q *http.Request) { q.URL.Path = "/x" }, codeInvalidSignature},
		"another content type": {func(q *http.Request) { q.Header.Set("Content-Type", "application/json") }, codeUnknownOperation},
		"with a charset":       {func(q *http.Request) { q.Header.Set("Content-Type", contentType+"; charset=utf-8") }, ""},
	} {
		req := r.request("ListKeys", "{}")
		c.change(req)
		r.sign(req, "{}", r.creds["admin"], time.Now())
		if a := r.send(http.DefaultClient, req); a.code != c.code {
			t.Errorf("%s: %d %s", name, a.status, a.body)
		}
	}
	for _, size := range []int{maxBody + 1, 8 << 20, 32 << 20} {
		if a := r.call("admin", "ListKeys", strings.Repeat(" ", size)); a.status != http.StatusRequestEntityTooLarge || a.code != codeTooLarge {
			t.Errorf("too large, %d bytes: %d %s", size, a.status, a.code)
		}
	}
	r.sendsAllFirst(8 << 20)
	if a := r.call("admin", "ListKeys", strings.Repeat(" ", maxBody)); a.status != http.StatusOK {
		t.Errorf("just not too large: %d %s", a.status, a.body)
	}
	if a := r.call("admin", "UpdateKeyDescription", `{"KeyId":"`+r.newKey("")+`","Description":"x"}`); a.status != http.StatusOK || a.body != "" {
		t.Errorf("an operation without output: %d %q", a.status, a.body)
	}
}

// TestStateTable is the table of key states and operations, over the wire, for the states that calls can bring about.
func TestStateTable(t *testing.T) {
	b, err := os.ReadFile("../testdata/policy.json")
	if err != nil {
		t.Fatal(err)
	}
	var vectors struct {
		StateTable map[string]map[string]json.RawMessage
	}
	if err := json.Unmarshal(b, &vectors); err != nil {
		t.Fatal(err)
	}
	r := newRig(t)
	r.person("bob")
	done := 0
	for op, row := range vectors.StateTable {
		for _, state := range []keystore.State{keystore.Enabled, keystore.Disabled, keystore.PendingDeletion, keystore.PendingImport} {
			key, other := r.newKey(""), r.newKey("")
			if state == keystore.PendingImport {
				key = r.do("admin", "CreateKey", out{"Origin": "EXTERNAL"})["KeyMetadata"].(map[string]any)["Arn"].(string)
				r.imports(key)
			}
			tail := key[len(key)-12:]
			mine, others := "alias/m"+tail, "alias/o"+tail
			r.do("admin", "CreateAlias", out{"AliasName": mine, "TargetKeyId": key})
			r.do("admin", "CreateAlias", out{"AliasName": others, "TargetKeyId": other})
			blob := r.do("admin", "Encrypt", out{"KeyId": key, "Plaintext": []byte("x")})["CiphertextBlob"]
			grant := r.do("admin", "CreateGrant", out{"KeyId": key, "GranteePrincipal": userARN("bob"), "RetiringPrincipal": userARN("admin"), "Operations": []string{"Decrypt"}})["GrantId"]
			policy := r.do("admin", "GetKeyPolicy", out{"KeyId": key})["Policy"]
			switch state {
			case keystore.Disabled:
				r.do("admin", "DisableKey", out{"KeyId": key})
			case keystore.PendingDeletion:
				r.do("admin", "ScheduleKeyDeletion", out{"KeyId": key})
			case keystore.PendingImport:
				r.do("admin", "DeleteImportedKeyMaterial", out{"KeyId": key})
			default:
			}
			name, which, _ := strings.Cut(strings.TrimSuffix(op, ")"), "(")
			in := map[string]out{
				"Encrypt": {"Plaintext": []byte("x")}, "Decrypt": {"CiphertextBlob": blob}, "GenerateDataKey": {"KeySpec": "AES_256"},
				"GenerateDataKeyWithoutPlaintext": {"KeySpec": "AES_256"}, "ReEncrypt": {"CiphertextBlob": blob, "DestinationKeyId": other},
				"PutKeyPolicy": {"Policy": policy}, "RetireGrant": {"GrantId": grant}, "RevokeGrant": {"GrantId": grant},
				"DeleteAlias": {"AliasName": mine}, "CreateAlias": {"AliasName": "alias/n" + tail, "TargetKeyId": key},
				"CreateGrant": {"GranteePrincipal": userARN("bob"), "Operations": []string{"Decrypt"}},
				"TagResource": {"Tags": []out{{"TagKey": "a", "TagValue": "b"}}}, "UntagResource": {"TagKeys": []string{"a"}},
				"UpdateKeyDescription": {"Description": "new"},
			}[name]
			if in == nil {
				in = out{}
			}
			if name == "UpdateAlias" {
				in = out{"AliasName": others, "TargetKeyId": key}
				if which == "source" {
					in = out{"AliasName": mine, "TargetKeyId": other}
				}
			}
			in["KeyId"] = key
			body, err := json.Marshal(in)
			r.ok(err)
			a := r.call("admin", name, string(body))
			var want [2]string // of a refusal
			refused := json.Unmarshal(row[string(state)], &want) == nil
			want[1] = strings.ReplaceAll(want[1], "<arn>", key)
			if refused && (a.code != want[0] || a.message != want[1]) || !refused && a.status != http.StatusOK {
				t.Errorf("%s/%s: %d %s, want %v", op, state, a.status, a.body, want)
			}
			done++
		}
	}
	if done < 29*4 {
		t.Errorf("only %d cells", done)
	}
	t.Log("the column Unavailable is package keystore's to test: no call brings a key there")
}

// TestStatesAndAuthorization are the rows S1 to S12 over the wire; S8, of a key without material, is in the state table.
func TestStatesAndAuthorization(t *testing.T) {
	r := newRig(t)
	for _, name := range []string{"alice", "bob", "keyadmin"} {
		r.person(name)
	}
	arn := func(name string) string { return *userARN(name) }
	text := `{"Version":"2012-10-17","Statement":[
	 {"Effect":"Allow","Principal":{"AWS":"arn:aws:iam::111122223333:root"},"Action":"kms:*","Resource":"*"},
	 {"Effect":"Allow","Principal":{"AWS":"` + arn("keyadmin") + `"},"Action":["kms:Enable*","kms:Disable*","kms:ScheduleKeyDeletion","kms:CancelKeyDeletion"],"Resource":"*"},
	 {"Effect":"Allow","Principal":{"AWS":"` + arn("alice") + `"},"Action":["kms:Encrypt","kms:Decrypt","kms:GenerateDataKey*"],"Resource":"*"}]}`
	key := r.newKey(text)
	context := out{"aws:s3:arn": "arn:aws:s3:::pay/q1.csv"}
	made := r.do("alice", "GenerateDataKey", out{"KeyId": key, "KeySpec": "AES_256", "EncryptionContext": context})
	blob, first := made["CiphertextBlob"], made["KeyMaterialId"]
	decrypt := func(name string, ctx out) answer {
		body, err := json.Marshal(out{"CiphertextBlob": blob, "EncryptionContext": ctx})
		r.ok(err)
		return r.call(name, "Decrypt", string(body))
	}
	want := func(row string, a answer, code, message string) {
		t.Helper()
		if a.code != code || message != "*" && a.message != message || code == "" && a.status != http.StatusOK {
			t.Errorf("%s: %d %s, want %s %q", row, a.status, a.body, code, message)
		}
	}
	r.do("keyadmin", "DisableKey", out{"KeyId": key})
	want("S1", decrypt("alice", context), keystore.CodeDisabled, key+" is disabled.")
	want("S2", decrypt("bob", context), keystore.CodeAccessDenied, "*")
	r.do("keyadmin", "EnableKey", out{"KeyId": key})
	r.do("admin", "CreateGrant", out{"KeyId": key, "GranteePrincipal": arn("bob"), "Operations": []string{"Decrypt"}})
	want("bob by grant", decrypt("bob", context), "", "")
	r.do("keyadmin", "DisableKey", out{"KeyId": key})
	want("S4", decrypt("bob", context), keystore.CodeDisabled, key+" is disabled.")
	want("S9 PutKeyPolicy", r.call("admin", "PutKeyPolicy", `{"KeyId":"`+key+`","Policy":`+quote(text)+`}`), "", "")
	want("S9 TagResource", r.call("admin", "TagResource", `{"KeyId":"`+key+`","Tags":[{"TagKey":"a","TagValue":"b"}]}`), "", "")
	want("S9 ScheduleKeyDeletion", r.call("admin", "ScheduleKeyDeletion", `{"KeyId":"`+key+`"}`), "", "")
	want("S3 Decrypt", decrypt("alice", context), keystore.CodeInvalidState, key+" is pending deletion.")
	want("S3 GenerateDataKey", r.call("alice", "GenerateDataKey", `{"KeyId":"`+key+`","KeySpec":"AES_256"}`), keystore.CodeInvalidState, key+" is pending deletion.")
	want("S7", r.call("keyadmin", "EnableKey", `{"KeyId":"`+key+`"}`), keystore.CodeInvalidState, key+" is pending deletion.")
	want("S5", r.call("keyadmin", "CancelKeyDeletion", `{"KeyId":"`+key+`"}`), "", "")
	if m := r.do("admin", "DescribeKey", out{"KeyId": key})["KeyMetadata"].(map[string]any); m["KeyState"] != "Disabled" || m["Enabled"] != false {
		t.Errorf("S5: %v", m)
	}
	r.do("keyadmin", "EnableKey", out{"KeyId": key})
	want("S6", r.call("keyadmin", "CancelKeyDeletion", `{"KeyId":"`+key+`"}`), keystore.CodeInvalidState, key+" is not pending deletion.")
	r.do("admin", "RotateKeyOnDemand", out{"KeyId": key})
	r.do("admin", "RotateKeyOnDemand", out{"KeyId": key})
	a := decrypt("alice", context)
	want("S11", a, "", "")
	if a.fields["KeyMaterialId"] != first || a.fields["Plaintext"] != made["Plaintext"] {
		t.Errorf("S11: %v", a.fields["KeyMaterialId"])
	}
	want("S12", decrypt("alice", out{"aws:s3:arn": "arn:aws:s3:::pay/q2.csv"}), keystore.CodeInvalidCiphertext, "")
	r.do("keyadmin", "ScheduleKeyDeletion", out{"KeyId": key, "PendingWindowInDays": 7})
	r.clock.Advance(8 * 24 * time.Hour)
	want("S10", decrypt("alice", context), keystore.CodeNotFound, "Key '"+key+"' does not exist")
}

// TestHanded: of every call that had plaintext in it, and of no other, the server's owner is told before it is answered.
func TestHanded(t *testing.T) {
	r := newRig(t)
	key := r.newKey("")
	told := func(op string, in out, want int32) map[string]any {
		t.Helper()
		before := r.handed.Load()
		fields := r.do("admin", op, in)
		if n := r.handed.Load() - before; n != want {
			t.Errorf("%s: told %d times, want %d", op, n, want)
		}
		return fields
	}
	blob := told("Encrypt", out{"KeyId": key, "Plaintext": []byte("text")}, 1)["CiphertextBlob"]
	told("Decrypt", out{"CiphertextBlob": blob}, 1)
	told("GenerateDataKey", out{"KeyId": key, "KeySpec": "AES_256"}, 1)
	told("GenerateRandom", out{"NumberOfBytes": 32}, 1)
	told("GenerateDataKeyWithoutPlaintext", out{"KeyId": key, "KeySpec": "AES_256"}, 0)
	told("ReEncrypt", out{"CiphertextBlob": blob, "DestinationKeyId": key}, 0)
	told("DescribeKey", out{"KeyId": key}, 0)
	before := r.handed.Load()
	if a := r.call("admin", "Encrypt", `{"KeyId":"alias/nobody","Plaintext":"dGV4dA=="}`); a.status == http.StatusOK || r.handed.Load() != before+1 {
		t.Errorf("a refused Encrypt: %d, told %d times", a.status, r.handed.Load()-before)
	}
}

// TestUnixSocket: there the uid decides, and a signature does not.
func TestUnixSocket(t *testing.T) {
	r := newRig(t)
	r.person("other", "AdministratorAccess")
	uid := uint32(os.Getuid())
	local := &http.Client{Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", r.socket)
		},
	}}
	defer local.CloseIdleConnections()
	list := func(principal string, signed bool) answer {
		req := r.request("ListKeys", "{}")
		if principal != "" {
			req.Header.Set(principalHeader, principal)
		}
		if signed {
			r.sign(req, "{}", r.creds["admin"], time.Now())
		}
		return r.send(local, req)
	}
	if a := list("", true); a.code != keystore.CodeAccessDenied {
		t.Errorf("a uid of nobody: %d %s", a.status, a.body)
	}
	r.ok(r.people.BindUID("admin", uid))
	if a := list("", false); a.status != http.StatusOK {
		t.Errorf("%d %s", a.status, a.body)
	}
	var last audit.Event
	r.ok(r.audit.Query(audit.Filter{Last: 1}, func(e audit.Event) error { last = e; return nil }))
	if last.UserIdentity.UserName != "admin" || last.UserIdentity.AccessKeyID != "" || last.SourceIPAddress != "" ||
		last.AdditionalEventData.Kmsfs.UID != uid || last.AdditionalEventData.Kmsfs.PID != uint32(os.Getpid()) {
		t.Errorf("%+v %+v", last, last.AdditionalEventData.Kmsfs)
	}
	if a := list("other", false); a.code != keystore.CodeAccessDenied {
		t.Errorf("as who is not bound: %d %s", a.status, a.body)
	}
	r.ok(r.people.BindUID("other", uid))
	if a := list("other", true); a.status != http.StatusOK {
		t.Errorf("as the second: %d %s", a.status, a.body)
	}
	r.ok(r.audit.Query(audit.Filter{Last: 1}, func(e audit.Event) error { last = e; return nil }))
	if last.UserIdentity.UserName != "other" {
		t.Errorf("chosen: %+v", last.UserIdentity)
	}
}

// TestLimitsAUser: a uid's connections on the Unix socket are bounded, silent ones too, and count until they are closed.
func TestLimitsAUser(t *testing.T) {
	r := newRig(t)
	r.ok(r.people.BindUID("admin", uint32(os.Getuid())))
	held := make([]net.Conn, maxPerUser)
	for i := range held {
		var err error
		held[i], err = net.Dial("unix", r.socket)
		r.ok(err)
		t.Cleanup(func() { _ = held[i].Close() })
	}
	one := make([]byte, 1)
	more, err := net.Dial("unix", r.socket)
	r.ok(err)
	defer func() { _ = more.Close() }()
	r.ok(more.SetReadDeadline(time.Now().Add(5 * time.Second))) // who may stay is hung up on later, when his request does not come
	if n, err := more.Read(one); n != 0 || err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("one more was not hung up on: %d %v", n, err)
	}
	r.ok(held[0].Close())
	// The server notices when it reads.
	for tries := 0; ; tries++ {
		c, err := net.Dial("unix", r.socket)
		r.ok(err)
		_, _ = c.Write([]byte("GET / HTTP/1.0\r\n\r\n"))
		n, _ := c.Read(one)
		_ = c.Close()
		if n > 0 {
			return
		}
		if tries == 10_000 {
			t.Fatal("a closed connection still counts")
		}
	}
}

// TestSecureTransport: TCP is insecure and has an address, a Unix socket neither.
func TestSecureTransport(t *testing.T) {
	r := newRig(t)
	r.person("tls", "AdministratorAccess")
	r.person("net", "AdministratorAccess")
	deny := func(condition string) []byte {
		return []byte(`{"Version":"2012-10-17","Statement":{"Effect":"Deny","Action":"kms:*","Resource":"*","Condition":` + condition + `}}`)
	}
	r.ok(r.people.PutPolicy("secure", deny(`{"Bool":{"aws:SecureTransport":"false"}}`)))
	r.ok(r.people.Attach("tls", "secure"))
	r.ok(r.people.PutPolicy("home", deny(`{"NotIpAddress":{"aws:SourceIp":"10.0.0.0/8"}}`)))
	r.ok(r.people.Attach("net", "home"))
	for _, name := range []string{"tls", "net"} {
		if a := r.call(name, "ListKeys", "{}"); a.code != keystore.CodeAccessDenied || !strings.Contains(a.message, "with an explicit deny") {
			t.Errorf("%s: %d %s", name, a.status, a.body)
		}
	}
	r.ok(r.people.PutPolicy("home", deny(`{"NotIpAddress":{"aws:SourceIp":"127.0.0.0/8"}}`)))
	if a := r.call("net", "ListKeys", "{}"); a.status != http.StatusOK {
		t.Errorf("from an address that is allowed: %d %s", a.status, a.body)
	}
}

func TestListen(t *testing.T) {
	for _, address := range []string{"0.0.0.0:0", "[::]:0", ":0", "192.0.2.1:0"} {
		if ln, err := Listen(t.Context(), address, false); !errors.Is(err, ErrNotLoopback) {
			t.Errorf("%s: %v, %v", address, ln, err)
		}
	}
	for _, address := range []string{"127.0.0.1", "127.0.0.1:x", "x"} {
		if _, err := Listen(t.Context(), address, false); err == nil {
			t.Errorf("%s is accepted", address)
		}
	}
	for address, anywhere := range map[string]bool{"127.0.0.1:0": false, "127.9.9.9:0": false, "0.0.0.0:0": true} {
		ln, err := Listen(t.Context(), address, anywhere)
		if err != nil {
			t.Errorf("%s: %v", address, err)
			continue
		}
		_ = ln.Close()
	}
}

// TestShutdown: a call under way is answered, later ones find nobody.
func TestShutdown(t *testing.T) {
	r := newRig(t)
	c, err := net.Dial("tcp", r.address)
	r.ok(err)
	defer c.Close()
	ended := make(chan error, 1)
	go func() { ended <- r.server.Shutdown(context.Background()) }()
	select {
	case err := <-ended:
		r.ok(err)
	case <-time.After(30 * time.Second):
		t.Fatal("an idle connection holds the shutdown up")
	}
	if c, err := net.Dial("tcp", r.address); err == nil {
		_ = c.Close()
		t.Error("the listener is still there")
	}
}

// TestConnections: more connections than there is room for wait, and are served when others leave.
func TestConnections(t *testing.T) {
	r := newRig(t)
	var open []net.Conn
	for range maxConnections + 8 {
		c, err := net.Dial("tcp", r.address)
		r.ok(err)
		open = append(open, c)
	}
	answered := make(chan answer, 1)
	go func() {
		fresh := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
		req := r.request("ListKeys", "{}")
		r.sign(req, "{}", r.creds["admin"], time.Now())
		answered <- r.send(fresh, req)
	}()
	for _, c := range open {
		_ = c.Close()
	}
	if a := <-answered; a.status != http.StatusOK {
		t.Errorf("%d %s", a.status, a.body)
	}
}

func FuzzRequest(f *testing.F) {
	for _, body := range []string{
		`{}`, `{"KeyId":"alias/x","Plaintext":"eA==","EncryptionContext":{"a":"b"},"GrantTokens":["t"],"DryRun":true}`,
		`{"Tags":[{"TagKey":"a","TagValue":"b"}],"Limit":7,"Marker":"x"}`, `{"Operations":["Decrypt"],"Constraints":{"EncryptionContextSubset":{"a":"b"}}}`,
		`{"a":[[[[[[[[1]]]]]]]]}`, `{"a":1,"a":2}`, `{"Limit":1e400}`, "{\"\xff\":1}",
	} {
		f.Add(body)
	}
	r := newRig(f)
	r.newKey("")
	table := operations()
	who, err := r.people.Identity("admin")
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, body string) {
		fields, err := parseObject([]byte(body))
		if err != nil {
			if _, ok := errors.AsType[*refusal](err); !ok {
				t.Fatalf("not a refusal: %v", err)
			}
			return
		}
		if strings.TrimSpace(body) != "" && !json.Valid([]byte(body)) {
			t.Fatalf("%q is no JSON", body)
		}
		for name, op := range table {
			switch name {
			case "CreateKey", "ScheduleKeyDeletion", "DisableKey", "PutKeyPolicy", "CreateGrant", "CreateAlias", "RotateKeyOnDemand":
				continue // they would fill the store or take the key away
			}
			_, err := op(&request{in: newInput(fields), call: &keystore.Call{Who: who}, keys: r.keys, name: name})
			if refused, ours := refusalOf(err); err != nil && ours {
				t.Fatalf("%s %q: %v (%v)", name, body, err, refused)
			}
		}
	})
}

// sendsAllFirst sends a request that is too large as a client does that reads the answer only when it has sent everything.
func (r *rig) sendsAllFirst(size int) {
	r.t.Helper()
	req := r.request("ListKeys", "")
	c, err := net.Dial("tcp", req.URL.Host)
	if err != nil {
		r.t.Fatal(err)
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(time.Minute))
	for _, part := range []string{fmt.Sprintf("POST / HTTP/1.1\r\nHost: %s\r\nContent-Length: %d\r\n\r\n", req.URL.Host, size), strings.Repeat(" ", size)} {
		if _, err := io.WriteString(c, part); err != nil {
			r.t.Fatalf("%d bytes: %v", size, err)
		}
	}
	a, err := http.ReadResponse(bufio.NewReader(c), req)
	if err != nil {
		r.t.Fatalf("the answer to %d bytes: %v", size, err)
	}
	defer a.Body.Close()
	if a.StatusCode != http.StatusRequestEntityTooLarge {
		r.t.Errorf("%d bytes: %s", size, a.Status)
	}
}

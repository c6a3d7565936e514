package host

import (
	"fmt"
	"strings"

	"github.com/kmsfs/kmsfs/keystore"
	"github.com/kmsfs/kmsfs/principals/policy"
)

// change says what would have to change for a refused gate to allow. Each
// line is enough by itself, unless a later gate refuses as well.
func (e *evaluation) change(action, resource string, d policy.Decision, refused *keystore.Error) []string {
	if refused != nil && refused.Code != keystore.CodeAccessDenied {
		return keyChange(resource, refused)
	}
	if d.Effect == policy.ExplicitDeny {
		return append(e.namedEncryption(action, resource), e.withoutDeny(d, resource))
	}
	if strings.HasPrefix(action, "kms:") {
		return e.allowKey(strings.TrimPrefix(action, "kms:"), resource, d)
	}
	return e.allowObject(action, resource, d)
}

// keyChange is for a key that would be allowed and cannot be used.
func keyChange(key string, refused *keystore.Error) []string {
	switch refused.State {
	case keystore.Disabled:
		return []string{"enable the key: kmsfs key enable " + key}
	case keystore.PendingDeletion:
		return []string{"keep the key: kmsfs key cancel-deletion " + key + ", then kmsfs key enable " + key}
	case keystore.PendingImport:
		return []string{"import the key's material again: aws kms import-key-material --key-id " + key}
	case keystore.Enabled, keystore.Unavailable:
	}
	if refused.Code == keystore.CodeNotFound {
		return []string{"nothing brings back what is under a key that was deleted; a default that names no key wants another: kmsfs bucket encryption NAME VALUE"}
	}
	return nil
}

// namedEncryption is for bucket policies that want uploads to say how they are
// encrypted: a default does not say it, a mount option does.
func (e *evaluation) namedEncryption(action, resource string) []string {
	if action != "s3:PutObject" {
		return nil
	}
	for _, sse := range []string{"aws:kms", sseS3} {
		keys := policy.MapKeys{}
		keys.Add("s3:x-amz-server-side-encryption", sse)
		if policy.DecideS3(e.who, &policy.Request{Action: action, Resource: resource, Clock: e.c.d.cfg.Clock, Keys: keys}, e.doc).Allowed() {
			return []string{"the bucket policy wants uploads to name their encryption: kmsfs mount -o sse=" + sse + " DIR"}
		}
	}
	return nil
}

// withoutDeny names the statement that has to go, or to be narrower: an
// explicit deny is stronger than anything that allows.
func (e *evaluation) withoutDeny(d policy.Decision, resource string) string {
	who := e.result.Principal
	statement := fmt.Sprintf("statement %d", d.Statement)
	if d.Sid != "" {
		statement += fmt.Sprintf(" (%s)", d.Sid)
	}
	switch d.Source {
	case policy.KeyPolicySource:
		return fmt.Sprintf("%s of the key policy denies it and would have to go or spare %s: kmsfs key policy %s FILE", statement, who, resource)
	case policy.BucketPolicySource:
		return fmt.Sprintf("%s of the bucket policy denies it and would have to go or spare %s: kmsfs bucket policy %s FILE", statement, who, e.bucket.Name)
	case policy.Boundary:
		return fmt.Sprintf("%s of his permissions boundary %s denies it: kmsfs principal boundary %s POLICY", statement, d.Policy, who)
	default:
		return fmt.Sprintf("%s of %s denies it and would have to go: kmsfs principal detach %s %s, or put the policy without it", statement, d.Policy, who, d.Policy)
	}
}

// allowKey lists the ways to a right on a key that nothing denies.
func (e *evaluation) allowKey(operation, key string, d policy.Decision) []string {
	who, arn := e.result.Principal, e.who.ARN
	if d.Missing == policy.Boundary.String() {
		return []string{fmt.Sprintf("his permissions boundary would have to allow kms:%s: kmsfs principal boundary %s POLICY", operation, who)}
	}
	out := []string{
		fmt.Sprintf("a grant: kmsfs grant create %s --grantee %s --operations %s", key, who, operation),
		fmt.Sprintf("a statement of the key policy that allows kms:%s to %s: kmsfs key policy %s FILE", operation, arn, key),
	}
	if d.Missing == policy.IdentityPolicies.String() { // the key policy leaves it to the account's identities
		out = append(out, fmt.Sprintf("a policy of his that allows kms:%s on the key: kmsfs principal attach %s FILE", operation, who))
	}
	return out
}

// allowObject lists the ways to a right on a bucket or an object.
func (e *evaluation) allowObject(action, resource string, d policy.Decision) []string {
	who := e.result.Principal
	if d.Missing == policy.Boundary.String() {
		return []string{fmt.Sprintf("his permissions boundary would have to allow %s: kmsfs principal boundary %s POLICY", action, who)}
	}
	return []string{
		fmt.Sprintf("a policy of his that allows %s on %s: kmsfs principal attach %s FILE", action, resource, who),
		fmt.Sprintf("a statement of the bucket policy that allows it to %s: kmsfs bucket policy %s FILE", e.who.ARN, e.bucket.Name),
	}
}

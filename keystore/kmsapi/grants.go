package kmsapi

import (
	"fmt"
	"regexp"
	"strings"

	"github.com/kmsfs/kmsfs/keystore"
)

var (
	grantOperations = []string{
		"Decrypt", "Encrypt", "GenerateDataKey", "GenerateDataKeyWithoutPlaintext", "ReEncryptFrom", "ReEncryptTo", "Sign", "Verify",
		"GetPublicKey", "CreateGrant", "RetireGrant", "DescribeKey", "GenerateDataKeyPair", "GenerateDataKeyPairWithoutPlaintext",
		"GenerateMac", "VerifyMac", "DeriveSharedSecret",
	}
	grantName  = regexp.MustCompile(`^[a-zA-Z0-9:/_-]+$`)
	aPrincipal = rule{min: 1, max: 256}
	aGrantID   = rule{min: 1, max: 128}
)

func (r *request) createGrant() (out, error) {
	ref := r.keyID()
	in := keystore.CreateGrantInput{
		Grantee:    r.in.text("GranteePrincipal", aPrincipal),
		Retiring:   r.in.text("RetiringPrincipal", aPrincipal),
		Operations: r.in.texts("Operations", true, 1, 50, rule{enum: grantOperations}),
		Name:       r.in.text("Name", rule{min: 1, max: 256, pattern: grantName}),
	}
	service := false
	for _, name := range []string{"GranteeServicePrincipal", "RetiringServicePrincipal"} {
		service = service || r.in.given(name)
	}
	if c := r.in.structure("Constraints"); c != nil {
		in.Subset, in.Equals = c.pairs("EncryptionContextSubset"), c.pairs("EncryptionContextEquals")
		service = service || c.given("SourceArn")
		c.only("EncryptionContextSubset", "EncryptionContextEquals", "SourceArn")
	}
	if in.Grantee == "" && !service {
		r.in.get("GranteePrincipal", true)
	}
	r.call.DryRun = r.in.boolean("DryRun")
	tokens, err := r.grantTokens()
	if err != nil {
		return nil, err
	}
	if service {
		return nil, refuse(keystore.CodeUnsupportedOperation, "Grants for service principals are not supported.")
	}
	in.Tokens = tokens
	id, token, err := r.keys.CreateGrant(r.call, ref, in)
	if err != nil {
		return nil, err
	}
	return out{"GrantId": id, "GrantToken": token}, nil
}

func (r *request) listGrants() (out, error) {
	ref := r.keyID()
	id, grantee := r.in.text("GrantId", aGrantID), r.in.text("GranteePrincipal", aPrincipal)
	limit, marker := r.paging(50, 100)
	if err := r.in.err(); err != nil {
		return nil, err
	}
	list, err := r.keys.ListGrants(r.call, ref, id, grantee)
	if err != nil {
		return nil, err
	}
	return r.grantPage(list, limit, marker)
}

func (r *request) listRetirableGrants() (out, error) {
	retiring := r.in.text("RetiringPrincipal", rule{required: true, min: 1, max: 256})
	limit, marker := r.paging(50, 100)
	if err := r.in.err(); err != nil {
		return nil, err
	}
	list, err := r.keys.ListRetirableGrants(r.call, retiring)
	if err != nil {
		return nil, err
	}
	return r.grantPage(list, limit, marker)
}

func (r *request) grantPage(list []keystore.Grant, limit int, marker string) (out, error) {
	list, answer, err := page(r, list, limit, marker, func(g keystore.Grant) string {
		return fmt.Sprintf("%020d/%s", g.Created.UnixNano(), g.ID)
	})
	if err != nil {
		return nil, err
	}
	grants := make([]out, 0, len(list))
	for _, g := range list {
		o := out{
			"KeyId": g.KeyARN, "GrantId": g.ID, "Name": g.Name, "CreationDate": epoch(g.Created), "GranteePrincipal": g.Grantee,
			"Operations": g.Operations, "IssuingAccount": issuer(g),
		}
		if g.Retiring != "" {
			o["RetiringPrincipal"] = g.Retiring
		}
		constraints := out{}
		if len(g.Subset) > 0 {
			constraints["EncryptionContextSubset"] = g.Subset
		}
		if len(g.Equals) > 0 {
			constraints["EncryptionContextEquals"] = g.Equals
		}
		if len(constraints) > 0 {
			o["Constraints"] = constraints
		}
		grants = append(grants, o)
	}
	answer["Grants"] = grants
	return answer, nil
}

// issuer is the account under which a grant was made, in the form of its root user.
func issuer(g keystore.Grant) string {
	if parts := strings.SplitN(g.Issuer, ":", 6); len(parts) == 6 {
		return "arn:aws:iam::" + parts[4] + ":root"
	}
	return ""
}

func (r *request) revokeGrant() (out, error) {
	ref, id := r.keyID(), r.in.text("GrantId", rule{required: true, min: 1, max: 128})
	r.call.DryRun = r.in.boolean("DryRun")
	if err := r.in.err(); err != nil {
		return nil, err
	}
	return nil, r.keys.RevokeGrant(r.call, ref, id)
}

func (r *request) retireGrant() (out, error) {
	token := r.in.text("GrantToken", rule{min: 1, max: 8192, silent: true})
	ref, id := r.in.text("KeyId", rule{min: 1, max: 2048}), r.in.text("GrantId", aGrantID)
	r.call.DryRun = r.in.boolean("DryRun")
	if err := r.in.err(); err != nil {
		return nil, err
	}
	if token == "" && (ref == "" || id == "") {
		return nil, refuse(keystore.CodeValidation, "A grant is named by its token, or by its key and id.")
	}
	return nil, r.keys.RetireGrant(r.call, token, ref, id)
}

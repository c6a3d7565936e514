package policy

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
)

// maxVectors is the size of the largest vector file, in bytes.
const maxVectors = 64 << 20

// Vectors is a file of policy cases: fixtures by name, and cases that use them.
// testdata/policy.json is one. Names that are not listed here are ignored, so that a
// file may hold more than this package knows.
type Vectors struct {
	// Account is the account the resources belong to.
	Account string `json:"account"`
	// Key is the ARN of the key that KMS cases are about.
	Key string `json:"key"`
	// IdentityPolicies are lists of documents by name.
	IdentityPolicies map[string][]json.RawMessage `json:"identityPolicies"`
	// KeyPolicies and BucketPolicies are documents by name.
	KeyPolicies    map[string]json.RawMessage `json:"keyPolicies"`
	BucketPolicies map[string]json.RawMessage `json:"bucketPolicies"`
	// Vectors are cases decided by policies, GrantVectors such with grants.
	// The two lists have the same form.
	Vectors      []Vector `json:"vectors"`
	GrantVectors []Vector `json:"grantVectors"`
}

// A Vector is one case.
type Vector struct {
	ID string `json:"id"`
	// Principal is the caller's ARN: root, user or assumed role.
	Principal string `json:"principal"`
	// Identity, Boundary and SessionPolicy name entries of IdentityPolicies;
	// the latter two are optional and must have one document.
	Identity      string `json:"identity"`
	Boundary      string `json:"boundary,omitempty"`
	SessionPolicy string `json:"sessionPolicy,omitempty"`
	// KeyPolicy or BucketPolicy names the resource policy. Without either the
	// case is decided by the identity side alone (S3: without a bucket policy).
	KeyPolicy    string `json:"keyPolicy,omitempty"`
	BucketPolicy string `json:"bucketPolicy,omitempty"`
	Action       string `json:"action"`
	// Resource defaults to the file's Key for KMS cases and to "*" otherwise.
	Resource string `json:"resource,omitempty"`
	// Context holds condition keys: a string or a list of strings each.
	Context map[string]vectorValues `json:"context"`
	Grants  []vectorGrant           `json:"grants,omitempty"`
	// Request is the grant to be made, for kms:CreateGrant.
	Request *vectorGrant `json:"request,omitempty"`
	// Expect is ALLOW, DENY or MALFORMED (a policy of the case is refused).
	Expect string `json:"expect"`
	Why    string `json:"why,omitempty"`
}

// vectorValues is a string or a list of strings.
type vectorValues []string

// UnmarshalJSON implements json.Unmarshaler.
func (v *vectorValues) UnmarshalJSON(b []byte) error {
	if bytes.HasPrefix(bytes.TrimSpace(b), []byte{'['}) {
		return json.Unmarshal(b, (*[]string)(v))
	}
	var one string
	if err := json.Unmarshal(b, &one); err != nil {
		return err
	}
	*v = vectorValues{one}
	return nil
}

// vectorGrant is a grant in the form of the KMS API.
type vectorGrant struct {
	GrantID           string `json:"GrantId"`
	Name              string
	GranteePrincipal  string
	RetiringPrincipal string
	Operations        []string
	Constraints       struct {
		EncryptionContextSubset, EncryptionContextEquals map[string]string
	}
}

func (g *vectorGrant) grant() Grant {
	return Grant{
		ID: g.GrantID, Name: g.Name, Grantee: g.GranteePrincipal, Retiring: g.RetiringPrincipal, Operations: g.Operations,
		Subset: g.Constraints.EncryptionContextSubset, Equals: g.Constraints.EncryptionContextEquals,
	}
}

// A VectorResult is the outcome of one Vector.
type VectorResult struct {
	ID     string `json:"id"`
	Expect string `json:"expect"`
	// Got is ALLOW, DENY or MALFORMED.
	Got string `json:"got"`
	// OK is Expect == Got.
	OK bool `json:"ok"`
	// Reason is Decision.Reason, or what is malformed.
	Reason string `json:"reason"`
	// Why is the file's own remark.
	Why string `json:"why,omitempty"`
}

// LoadVectors reads a vector file.
func LoadVectors(r io.Reader) (*Vectors, error) {
	text, err := io.ReadAll(io.LimitReader(r, maxVectors+1))
	if err != nil {
		return nil, fmt.Errorf("read vectors: %w", err)
	}
	if len(text) > maxVectors {
		return nil, fmt.Errorf("read vectors: file larger than %d bytes", maxVectors)
	}
	var v Vectors
	if err := json.Unmarshal(text, &v); err != nil {
		var syntax *json.SyntaxError
		if errors.As(err, &syntax) {
			return nil, fmt.Errorf("read vectors: %s: %w", position(text, int(syntax.Offset)-1), err)
		}
		return nil, fmt.Errorf("read vectors: %w", err)
	}
	if len(v.Vectors)+len(v.GrantVectors) == 0 {
		return nil, errors.New("read vectors: the file holds no \"vectors\" and no \"grantVectors\"")
	}
	return &v, nil
}

// RunVectors decides every case of a vector file, in its order. It fails if the file cannot
// be read or a case refers to what is not there; a case that differs from its
// expectation is a result like any other.
func RunVectors(r io.Reader) ([]VectorResult, error) {
	vs, err := LoadVectors(r)
	if err != nil {
		return nil, err
	}
	return vs.Run()
}

// Run decides every case.
func (vs *Vectors) Run() ([]VectorResult, error) {
	out := make([]VectorResult, 0, len(vs.Vectors)+len(vs.GrantVectors))
	for _, list := range [...][]Vector{vs.Vectors, vs.GrantVectors} {
		for i := range list {
			r, err := vs.run(&list[i])
			if err != nil {
				return nil, fmt.Errorf("vector %q: %w", list[i].ID, err)
			}
			out = append(out, r)
		}
	}
	return out, nil
}

func (vs *Vectors) run(v *Vector) (VectorResult, error) {
	res := VectorResult{ID: v.ID, Expect: v.Expect, Why: v.Why}
	switch v.Expect {
	case "ALLOW", "DENY", "MALFORMED":
	default:
		return res, fmt.Errorf("expect must be ALLOW, DENY or MALFORMED, not %q", v.Expect)
	}
	d, err := vs.decide(v)
	var malformed *MalformedError
	switch {
	case errors.As(err, &malformed):
		res.Got, res.Reason = "MALFORMED", err.Error()
	case err != nil:
		return res, err
	case d.Allowed():
		res.Got, res.Reason = "ALLOW", d.Reason()
	default:
		res.Got, res.Reason = "DENY", d.Reason()
	}
	res.OK = res.Got == res.Expect
	return res, nil
}

func (vs *Vectors) decide(v *Vector) (Decision, error) {
	who, err := vs.identity(v)
	if err != nil {
		return Decision{}, err
	}
	req := Request{Action: v.Action, Resource: v.Resource, ResourceAccount: vs.Account}
	keys := MapKeys{}
	for name, list := range v.Context {
		if tag, ok := strings.CutPrefix(strings.ToLower(name), prefixPrincipalTag); ok && len(list) == 1 {
			who.Tags[tag] = list[0]
		}
		keys.Add(name, list...)
	}
	req.Keys = keys
	var grants []Grant
	for i := range v.Grants {
		grants = append(grants, v.Grants[i].grant())
	}
	if v.Request != nil {
		g := v.Request.grant()
		req.Grant = &g
	}
	service, _, _ := strings.Cut(strings.ToLower(v.Action), ":")
	if req.Resource == "" {
		if req.Resource = "*"; v.KeyPolicy != "" {
			req.Resource = vs.Key
		}
	}
	switch {
	case v.KeyPolicy != "" && v.BucketPolicy != "":
		return Decision{}, errors.New("keyPolicy and bucketPolicy exclude each other")
	case v.KeyPolicy != "":
		d, err := vs.resourcePolicy(KeyPolicy, vs.KeyPolicies, v.KeyPolicy)
		if err != nil {
			return Decision{}, err
		}
		return DecideKMS(who, &req, d, grants), nil
	case v.BucketPolicy != "":
		d, err := vs.resourcePolicy(BucketPolicy, vs.BucketPolicies, v.BucketPolicy)
		if err != nil {
			return Decision{}, err
		}
		return DecideS3(who, &req, d), nil
	case service == "s3":
		return DecideS3(who, &req, nil), nil
	default:
		return DecideIdentity(who, &req), nil
	}
}

func (vs *Vectors) resourcePolicy(kind Kind, from map[string]json.RawMessage, name string) (*Document, error) {
	text, ok := from[name]
	if !ok {
		return nil, fmt.Errorf("there is no %v %q", kind, name)
	}
	d, err := Parse(kind, text)
	if err != nil {
		return nil, fmt.Errorf("%v %q: %w", kind, name, err)
	}
	return d, nil
}

// identity builds the caller.
func (vs *Vectors) identity(v *Vector) (*Identity, error) {
	who, err := IdentityFromARN(v.Principal)
	if err != nil {
		return nil, err
	}
	who.Tags = map[string]string{}
	if who.Policies, err = vs.named(v.Identity); err != nil {
		return nil, err
	}
	for _, limit := range [...]struct {
		name string
		to   **Named
	}{{v.Boundary, &who.Boundary}, {v.SessionPolicy, &who.SessionPolicy}} {
		if limit.name == "" {
			continue
		}
		list, err := vs.named(limit.name)
		if err != nil {
			return nil, err
		}
		if len(list) != 1 {
			return nil, fmt.Errorf("the boundary or session policy %q must be one document", limit.name)
		}
		*limit.to = &list[0]
	}
	return who, nil
}

func (vs *Vectors) named(name string) ([]Named, error) {
	texts, ok := vs.IdentityPolicies[name]
	if !ok {
		return nil, fmt.Errorf("there is no identity policy %q", name)
	}
	var out []Named
	for _, text := range texts {
		d, err := Parse(IdentityPolicy, text)
		if err != nil {
			return nil, fmt.Errorf("identity policy %q: %w", name, err)
		}
		out = append(out, Named{Name: name, Document: d})
	}
	return out, nil
}

// IdentityFromARN makes an identity without policies and unique id from the ARN
// of a root user, a user or a session.
func IdentityFromARN(arn string) (*Identity, error) {
	p := strings.SplitN(arn, ":", 6)
	if len(p) != 6 || p[0] != "arn" || p[3] != "" || !isAccount(p[4]) {
		return nil, fmt.Errorf("%s is not the ARN of a principal", quote(arn))
	}
	who := &Identity{Account: p[4], ARN: arn}
	kind, name, _ := strings.Cut(p[5], "/")
	switch {
	case p[2] == "iam" && p[5] == "root":
		who.Type, who.ID = RootUser, p[4]
	case p[2] == "iam" && kind == "user" && name != "":
		who.Type, who.Name = User, name[strings.LastIndexByte(name, '/')+1:]
	case p[2] == "sts" && kind == "assumed-role" && strings.Count(name, "/") == 1:
		role, _, _ := strings.Cut(name, "/")
		who.Type, who.RoleARN = Session, "arn:"+p[1]+":iam::"+p[4]+":role/"+role
	default:
		return nil, fmt.Errorf("%s is not the ARN of a root user, a user or a session", quote(arn))
	}
	return who, nil
}

package policy

import (
	"errors"
	"fmt"
	"strings"
	"testing"
)

func TestFitsBucket(t *testing.T) {
	const box = `"arn:aws:s3:::box"`
	const all = `"arn:aws:s3:::box/*"`
	for _, c := range []struct{ fields, want string }{
		{`"Action":"s3:GetObject","Resource":` + all, ""},
		{`"Action":"s3:*","Resource":` + all, ""},
		{`"Action":"*","Resource":` + box, ""},
		{`"Action":["s3:GetObject","s3:ListBucket"],"Resource":[` + box + `,` + all + `]`, ""},
		{`"Action":"s3:PutObject","Resource":"*"`, ""},
		{`"Action":"s3:GetObject","Resource":"arn:aws:s3:::box/home/${aws:username}/*"`, ""},
		{`"Action":"s3:ReplicateDelete","Resource":` + all, ""},
		{`"NotAction":"s3:GetObject","NotResource":` + all, ""},
		{`"Action":"s3:GetObjekt","Resource":` + all, "Statement[0].Action: Policy has invalid action: s3:GetObjekt"},
		{`"Action":["s3:GetObject","s3:Nothing"],"Resource":` + all, "Statement[0].Action: Policy has invalid action: s3:Nothing"},
		{`"NotAction":"s3:Wrong*","Resource":` + all, "Statement[0].NotAction: Policy has invalid action"},
		{`"Action":"s3:GetObject","Resource":"arn:aws:s3:::other/*"`, "Statement[0].Resource: Policy has invalid resource: arn:aws:s3:::other/*"},
		{`"Action":"s3:GetObject","Resource":"arn:aws:s3:::box2/*"`, "Policy has invalid resource"},
		{`"Action":"s3:GetObject","Resource":"arn:aws:s3:::*"`, "Policy has invalid resource"},
		{`"Action":"s3:GetObject","NotResource":"arn:aws:s3:::other/*"`, "Statement[0].NotResource: Policy has invalid resource"},
		{`"Action":"s3:GetObject","Resource":` + box, "Action does not apply to any resource(s) in statement: s3:GetObject"},
		{`"Action":["s3:GetObject","s3:ListBucket"],"Resource":` + all, "Action does not apply to any resource(s) in statement: s3:ListBucket"},
	} {
		doc, err := Parse(BucketPolicy, fmt.Appendf(nil, `{"Version":"2012-10-17","Statement":{"Effect":"Allow","Principal":"*",%s}}`, c.fields))
		if err != nil {
			t.Fatal(c.fields, err)
		}
		err = doc.FitsBucket("box")
		var malformed *MalformedError
		if (err == nil) != (c.want == "") || err != nil && (!errors.As(err, &malformed) || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%s: %v, want %q", c.fields, err, c.want)
		}
	}
}

package policy

import (
	"fmt"
	"slices"
	"strings"
)

// FitsBucket refuses what S3 refuses when a policy is put on a bucket, in its words: an action that S3 does not have, a resource that is not
// of this bucket, an action for which the statement names no resource that it could be about. doc is a bucket policy. Documents that are
// stored already are evaluated whatever this says of them. "*" as a resource stands for the bucket and what is in it.
func (d *Document) FitsBucket(bucket string) error {
	all, err := asWritten(d.text)
	if err != nil {
		return err
	}
	for _, st := range all {
		if at, problem := st.fits(bucket); problem != "" {
			return &MalformedError{Path: fmt.Sprintf("Statement[%d].%s", st.number-1, at), Msg: problem}
		}
	}
	return nil
}

// fits says what is wrong with a statement of a bucket policy, and where.
func (st *checked) fits(bucket string) (at, problem string) {
	for name, list := range map[string]stringList{"Action": st.Action, "NotAction": st.NotAction} {
		for _, pattern := range list {
			if len(actionsOfS3(pattern)) == 0 {
				return name, "Policy has invalid action: " + pattern
			}
		}
	}
	for name, list := range map[string]stringList{"Resource": st.Resource, "NotResource": st.NotResource} {
		for _, r := range list {
			of, _, _ := strings.Cut(strings.TrimPrefix(r, arnS3), "/")
			if r != "*" && (!strings.HasPrefix(r, arnS3) || of != bucket) {
				return name, "Policy has invalid resource: " + r
			}
		}
	}
	if len(st.Resource) == 0 {
		return "", ""
	}
	for _, pattern := range st.Action {
		if !slices.ContainsFunc(actionsOfS3(pattern), func(name string) bool {
			return slices.ContainsFunc(st.Resource, func(r string) bool { return mayBe(BucketPolicy, "s3", name, r) })
		}) {
			return "Action", "Action does not apply to any resource(s) in statement: " + pattern
		}
	}
	return "", ""
}

const arnS3 = "arn:aws:s3:::"

func actionsOfS3(pattern string) (names []string) {
	named(pattern, func(service, name string) {
		if service == "s3" {
			names = append(names, name)
		}
	})
	return names
}

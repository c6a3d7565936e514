package policy

import (
	"encoding/json"
	"fmt"
	"strings"
)

// DefaultKeyPolicy is the policy of a key that is created without one: it
// delegates everything to the account.
func DefaultKeyPolicy(account string) []byte {
	return fmt.Appendf(nil, `{"Version":"2012-10-17","Id":"key-default-1","Statement":[%s]}`, rootStatement(account))
}

func rootStatement(account string) string {
	return `{"Sid":"Enable IAM User Permissions","Effect":"Allow","Principal":{"AWS":"arn:aws:iam::` + account + `:root"},"Action":"kms:*","Resource":"*"}`
}

// ConsoleKeyPolicy is the policy that the console writes: the default, a
// statement for the administrators and two for the users of the key. Both lists hold
// principal ARNs; a statement without principals is left out.
func ConsoleKeyPolicy(account string, admins, users []string) []byte {
	statements := []string{rootStatement(account)}
	if len(admins) > 0 {
		statements = append(statements, `{"Sid":"Allow access for Key Administrators","Effect":"Allow","Principal":{"AWS":`+principalList(admins)+`},`+
			`"Action":["kms:Create*","kms:Describe*","kms:Enable*","kms:List*","kms:Put*","kms:Update*","kms:Revoke*","kms:Disable*","kms:Get*","kms:Delete*",`+
			`"kms:TagResource","kms:UntagResource","kms:ScheduleKeyDeletion","kms:CancelKeyDeletion"],"Resource":"*"}`)
	}
	if len(users) > 0 {
		who := principalList(users)
		statements = append(statements,
			`{"Sid":"Allow use of the key","Effect":"Allow","Principal":{"AWS":`+who+`},`+
				`"Action":["kms:Encrypt","kms:Decrypt","kms:ReEncrypt*","kms:GenerateDataKey*","kms:DescribeKey"],"Resource":"*"}`,
			`{"Sid":"Allow attachment of persistent resources","Effect":"Allow","Principal":{"AWS":`+who+`},`+
				`"Action":["kms:CreateGrant","kms:ListGrants","kms:RevokeGrant"],"Resource":"*","Condition":{"Bool":{"kms:GrantIsForAWSResource":"true"}}}`)
	}
	return fmt.Appendf(nil, `{"Version":"2012-10-17","Id":"key-consolepolicy-3","Statement":[%s]}`, strings.Join(statements, ","))
}

// principalList is one ARN as a JSON string, several as a list.
func principalList(arns []string) string {
	var v any = arns
	if len(arns) == 1 {
		v = arns[0]
	}
	b, err := json.Marshal(v)
	if err != nil {
		panic("policy: a list of strings does not marshal: " + err.Error())
	}
	return string(b)
}

// ManagedS3KeyPolicy is the fixed policy of alias/aws/s3: whoever in the
// account may use S3 may use the key through S3, and nobody otherwise.
func ManagedS3KeyPolicy(account, region string) []byte {
	return fmt.Appendf(nil, `{"Version":"2012-10-17","Id":"auto-s3-2","Statement":[`+
		`{"Sid":"Allow access through S3 for all principals in the account that are authorized to use S3",`+
		`"Effect":"Allow","Principal":{"AWS":"*"},`+
		`"Action":["kms:Encrypt","kms:Decrypt","kms:ReEncrypt*","kms:GenerateDataKey*","kms:DescribeKey"],"Resource":"*",`+
		`"Condition":{"StringEquals":{"kms:CallerAccount":"%[1]s","kms:ViaService":"s3.%[2]s.amazonaws.com"}}},`+
		`{"Sid":"Allow direct access to key metadata to the account","Effect":"Allow",`+
		`"Principal":{"AWS":"arn:aws:iam::%[1]s:root"},"Action":["kms:Describe*","kms:Get*","kms:List*"],"Resource":"*"}]}`, account, region)
}

// A LockoutError is the refusal of a key policy that would shut its author out.
type LockoutError struct{ Decision Decision }

// Error is AWS's text.
func (e *LockoutError) Error() string {
	return "The new key policy will not allow you to update the key policy in the future."
}

// LockoutCheck refuses, with a *LockoutError, a key policy that would not let
// who call kms:PutKeyPolicy on the key again. A key policy of AWS's default form
// passes only for callers whose identity policies allow it.
func LockoutCheck(who *Identity, newPolicy *Document, keyARN string) error {
	req := Request{Action: "kms:PutKeyPolicy", Resource: keyARN, ResourceAccount: who.Account}
	if d := DecideKMS(who, &req, newPolicy, nil); !d.Allowed() {
		return &LockoutError{Decision: d}
	}
	return nil
}

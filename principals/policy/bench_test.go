package policy

import (
	"fmt"
	"testing"
)

var sink Decision

// viaS3 is Keys as a mount supplies them.
type viaS3 struct{}

var viaService = []string{"s3.us-east-1.amazonaws.com"}

func (viaS3) Lookup(name string) ([]string, bool) {
	if name == "kms:viaservice" {
		return viaService, true
	}
	return nil, false
}

// benchCases are the decisions whose cost matters.
func benchCases(t testing.TB) map[string]func() Decision {
	admin, s3full, none := user(t, "admin", adminPolicy), user(t, "bob", s3FullPolicy), user(t, "alice")
	decrypt := &Request{Action: "kms:Decrypt", Resource: testKey, Keys: viaS3{}, Context: map[string]string{"aws:s3:arn": "arn:aws:s3:::pay/q1.csv"}}
	get := &Request{Action: "s3:GetObject", Resource: "arn:aws:s3:::pay/2026/q1.csv"}
	def := mustParse(t, KeyPolicy, string(DefaultKeyPolicy(testAccount)))
	managed := mustParse(t, KeyPolicy, string(ManagedS3KeyPolicy(testAccount, "us-east-1")))
	console := mustParse(t, KeyPolicy, string(ConsoleKeyPolicy(testAccount, []string{iamARN + "user/admin"}, []string{none.ARN})))
	var ten []string
	for i := range 9 {
		ten = append(ten, fmt.Sprintf(`{"Effect":"Deny","Action":["s3:Get*","s3:Put*"],"Resource":["arn:aws:s3:::pay/*/secret-%d/*","arn:aws:s3:::pay/${aws:username}/no/*"],
			"Condition":{"StringNotLike":{"aws:PrincipalTag/team":["red-*","blue-%d"]},"IpAddressIfExists":{"aws:SourceIp":"10.%d.0.0/16"}}}`, i, i, i))
	}
	big := user(t, "carol", doc(append(ten, `{"Effect":"Allow","Action":"s3:*","Resource":"arn:aws:s3:::pay/*"}`)...))
	big.Tags = map[string]string{"team": "green"}
	g := []Grant{{ID: "g", Grantee: none.ARN, Operations: []string{"Decrypt"}, Subset: map[string]string{"aws:s3:arn": "arn:aws:s3:::pay/q1.csv"}}}
	onlyAdmin := mustParse(t, KeyPolicy, doc(allowTo(aws(iamARN+"user/admin"), "kms:*")))
	return map[string]func() Decision{
		"S3/FullAccess":    func() Decision { return DecideS3(s3full, get, nil) },
		"S3/TenStatements": func() Decision { return DecideS3(big, get, nil) },
		"S3/Constant":      func() Decision { d, _ := ConstantS3(s3full, "s3:GetObject", "arn:aws:s3:::pay/", nil); return d },
		"KMS/Delegated":    func() Decision { return DecideKMS(admin, decrypt, def, nil) },
		"KMS/aws-s3":       func() Decision { return DecideKMS(s3full, decrypt, managed, nil) },
		"KMS/Console":      func() Decision { return DecideKMS(none, decrypt, console, nil) },
		"KMS/Grant":        func() Decision { return DecideKMS(none, decrypt, onlyAdmin, g) },
	}
}

func TestDecisionsDoNotAllocate(t *testing.T) {
	for name, decide := range benchCases(t) {
		if d := decide(); !d.Allowed() {
			t.Errorf("%s: %s", name, d.Reason())
		}
		if n := testing.AllocsPerRun(100, func() { sink = decide() }); n != 0 {
			t.Errorf("%s allocates %v times", name, n)
		}
	}
}

func BenchmarkDecide(b *testing.B) {
	for name, decide := range benchCases(b) {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				sink = decide()
			}
		})
	}
}

func BenchmarkParse(b *testing.B) {
	for name, text := range map[string][]byte{"Default": DefaultKeyPolicy(testAccount), "Console": ConsoleKeyPolicy(testAccount, []string{iamARN + "user/a"}, []string{iamARN + "user/b"})} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := Parse(KeyPolicy, text); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkReason(b *testing.B) {
	d := DecideKMS(user(b, "alice"), &Request{Action: "kms:Decrypt", Resource: testKey}, mustParse(b, KeyPolicy, string(DefaultKeyPolicy(testAccount))), nil)
	for b.Loop() {
		_ = d.Reason()
	}
}

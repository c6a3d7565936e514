package keystore

import (
	"bytes"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"
)

// TestImportStates: the rows of imported material, for keys of both origins, in each state that a key of that origin can have.
func TestImportStates(t *testing.T) {
	const wrong = "<arn> origin is AWS_KMS which is not valid for this operation."
	ops := []string{"GetParametersForImport", "ImportKeyMaterial", "DeleteImportedKeyMaterial"}
	ok, deleting := [2]string{}, [2]string{CodeInvalidState, "<arn> is pending deletion."}
	for _, c := range []struct {
		external bool
		state    State
		want     [2]string
	}{
		{true, PendingImport, ok},
		{true, Enabled, ok},
		{true, Disabled, ok},
		{true, PendingDeletion, deleting},
		{false, Enabled, [2]string{CodeUnsupportedOperation, wrong}},
		{false, Disabled, [2]string{CodeUnsupportedOperation, wrong}},
		{false, PendingDeletion, deleting},
	} {
		t.Run(string(c.state), func(t *testing.T) {
			w := newWorld(t)
			admin, material := w.admin(), bytes.Repeat([]byte{7}, 32)
			arn := w.key("default")
			var token, encrypted []byte
			if c.external {
				arn = external1(t, w)
				token, encrypted = w.parameters(admin, arn, material)
			}
			order := ops
			if c.state == PendingImport {
				order = []string{ops[0], ops[2], ops[1]} // so that each finds the state
			} else if c.external {
				must(t, third(w.ImportKeyMaterial(admin, arn, token, encrypted, time.Time{})))
			}
			switch c.state {
			case Disabled:
				must(t, w.DisableKey(admin, arn))
			case PendingDeletion:
				must(t, second(w.ScheduleKeyDeletion(admin, arn, 7)))
			case Enabled, PendingImport, Unavailable:
			}
			for _, op := range order {
				if got := w.find1(arn).State; got != c.state {
					t.Errorf("before %s the key is %s", op, got)
				}
				before := encode(w.find1(arn))
				var err error
				switch op {
				case "GetParametersForImport":
					_, err = w.GetParametersForImport(admin, arn, "RSAES_OAEP_SHA_256", "RSA_2048")
				case "ImportKeyMaterial":
					_, _, err = w.ImportKeyMaterial(admin, arn, token, encrypted, time.Time{})
				case "DeleteImportedKeyMaterial":
					_, _, err = w.DeleteImportedKeyMaterial(admin, arn)
				}
				wants(t, err, c.want[0], strings.ReplaceAll(c.want[1], "<arn>", arn))
				if err != nil && !bytes.Equal(before, encode(w.find1(arn))) {
					t.Errorf("the refused %s changed the key", op)
				}
			}
		})
	}
}

// TestEveryOperationHasItsStates: no operation was added without a row in one of the tables.
func TestEveryOperationHasItsStates(t *testing.T) {
	covered := map[string]bool{
		"RotateKeyOnDemand": true, "ListKeyRotations": true, // TestRotationStates
		"GetParametersForImport": true, "ImportKeyMaterial": true, "DeleteImportedKeyMaterial": true, // TestImportStates
		"CreateKey": true, "ListKeys": true, "ListRetirableGrants": true, "Check": true, // on no single key, or no operation of KMS
	}
	for op := range testVectors(t).StateTable {
		name, _, _ := strings.Cut(op, "(")
		covered[name] = true
	}
	named := regexp.MustCompile(`(?:changes|reading|using)\("(\w+)"`)
	found := 0
	for _, file := range []string{"call.go", "import.go"} {
		text, err := os.ReadFile(file)
		must(t, err)
		for _, m := range named.FindAllSubmatch(text, -1) {
			found++
			if !covered[string(m[1])] {
				t.Errorf("%s is in no table of states", m[1])
			}
		}
	}
	if found < 35 {
		t.Errorf("only %d operations found", found)
	}
}

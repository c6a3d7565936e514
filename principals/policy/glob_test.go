package policy

import (
	"math/rand/v2"
	"strings"
	"testing"
	"time"
	"unicode/utf8"
)

func TestGlob(t *testing.T) {
	for _, c := range []struct {
		pattern, value string
		want           bool
	}{
		{"", "", true},
		{"", "a", false},
		{"*", "", true},
		{"*", "anything/at:all", true},
		{"a", "a", true},
		{"a", "A", false},
		{"a*", "a", true},
		{"a*", "ba", false},
		{"*a", "ba", true},
		{"*a", "ab", false},
		{"a*b*c", "a--b--c", true},
		{"a*b*c", "a--c--b", false},
		{"?", "ä", true},
		{"?", "", false},
		{"??", "ä", false},
		{"a?c", "abc", true},
		{"*?", "", false},
		{"*?", "x", true},
		{"?*", "xyz", true},
		{"*??*", "x", false},
		{"*ab?d*", "abcabxd", true},
		{"a**b", "ab", true},
		{"[a]", "a", false},
		{`\*`, `\x`, true},
		{"line*", "line\nbreak", true},
		{"*aba", "ababa", true},
	} {
		g, msg := compileGlob(c.pattern, true, false)
		if msg != "" {
			t.Fatal(msg)
		}
		if got, _ := g.match(nil, c.value, 0); got != c.want {
			t.Errorf("%q against %q: %v, want %v", c.pattern, c.value, got, c.want)
		}
	}
}

func TestGlobARN(t *testing.T) {
	const object = "arn:aws:s3:::pay/a:b/c"
	for _, c := range []struct {
		pattern, value string
		want           bool
	}{
		{"*", object, true},
		{"arn:aws:s3:::pay/*", object, true},
		{"arn:aws:s3:::*", object, true},
		{"arn:aws:s3:::*/c", object, true},
		{"arn:aws:s3:::pay/?:b/c", object, true},
		{"arn:*:s3:*:*:pay/*", object, true},
		{"arn:*:pay/*", object, false},                            // fewer parts: only the last asterisk reaches over colons
		{"arn:aws:*", object, true},                               // the last asterisk does
		{"arn:aws:s3:*", "arn:aws:s3:::b", true},                  //
		{"arn:aws:s*::*", object, true},                           // five parts as well
		{"arn:aws:s*:x*", object, false},                          //
		{"arn:aws:s*:*", object, true},                            // five parts, the last reaches on
		{"arn:aws:kms:*:*:key/*", testKey, true},                  //
		{"arn:aws:kms:us-*-1:1111????3333:key/1*", testKey, true}, //
		{"arn:aws:kms:*:key/*", testKey, false},                   // region and account are two parts
		{"arn:aws:kms:*:*:alias/*", testKey, false},               //
		{"arn:aws:kms:?us-east-1:*:key/*", testKey, false},        //
		{"arn:aws?kms:us-east-1:111122223333:key/*:*", testKey, false},
		{"*:*:*:*:*:*", testKey, true},
		{"*:*:*:*:*:*:*", testKey, false},
		{"*:*:*:*:*:*:*", object, true},
	} {
		g, msg := compileARN(c.pattern, false, 5)
		if msg != "" {
			if c.want {
				t.Errorf("%q: %s", c.pattern, msg)
			}
			continue
		}
		if got, _ := g.match(nil, c.value, barrierOf(c.value)); got != c.want {
			t.Errorf("%q against %q: %v, want %v", c.pattern, c.value, got, c.want)
		}
	}
}

// slowMatch is the definition: try everything.
func slowMatch(p, s []rune) bool {
	rows := make([][]bool, len(p)+1)
	for i := range rows {
		rows[i] = make([]bool, len(s)+1)
	}
	rows[0][0] = true
	for i := 1; i <= len(p); i++ {
		for j := 0; j <= len(s); j++ {
			switch {
			case p[i-1] == '*':
				rows[i][j] = rows[i-1][j] || j > 0 && rows[i][j-1]
			case j > 0 && (p[i-1] == '?' || p[i-1] == s[j-1]):
				rows[i][j] = rows[i-1][j-1]
			}
		}
	}
	return rows[len(p)][len(s)]
}

// slowARN matches each of six parts by itself.
func slowARN(pattern, value string) bool {
	p, v := strings.SplitN(pattern, ":", 6), strings.SplitN(value, ":", 6)
	if len(p) < 6 || len(v) < 6 {
		return false
	}
	for i := range p {
		if !slowMatch([]rune(p[i]), []rune(v[i])) {
			return false
		}
	}
	return true
}

func randomText(r *rand.Rand, alphabet string, n int) string {
	var b strings.Builder
	runes := []rune(alphabet)
	for range r.IntN(n + 1) {
		b.WriteRune(runes[r.IntN(len(runes))])
	}
	return b.String()
}

func TestGlobAgainstDefinition(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 1))
	for range 60000 {
		p, s := randomText(r, "abä*?", 9), randomText(r, "abä", 9)
		g, msg := compileGlob(p, true, false)
		if msg != "" {
			t.Fatal(msg)
		}
		if got, _ := g.match(nil, s, 0); got != slowMatch([]rune(p), []rune(s)) {
			t.Fatalf("%q against %q: %v", p, s, got)
		}
		if low := strings.ToLower(p); globFold(low, strings.ReplaceAll(strings.ToUpper(s), "Ä", "b")) !=
			slowMatch([]rune(low), []rune(strings.ReplaceAll(s, "ä", "b"))) && utf8.RuneCountInString(p) == len(p) {
			t.Fatalf("action %q against %q", p, s)
		}
	}
}

func TestARNAgainstDefinition(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 2))
	for range 60000 {
		var p, s []string
		for range 6 {
			p, s = append(p, randomText(r, "ab*?", 3)), append(s, randomText(r, "ab", 3))
		}
		p[5], s[5] = randomText(r, "ab:*?", 6), randomText(r, "ab:", 6)
		p[0], s[0] = "arn", "arn"
		pattern, value := strings.Join(p, ":"), strings.Join(s, ":")
		g, msg := compileARN(pattern, false, 5)
		if msg != "" {
			t.Fatal(msg)
		}
		if got, _ := g.match(nil, value, barrierOf(value)); got != slowARN(pattern, value) {
			t.Fatalf("%q against %q: %v", pattern, value, got)
		}
	}
}

// Patterns that make a backtracking matcher run for ages.
func TestGlobTime(t *testing.T) {
	value := strings.Repeat("a", 20000)
	for _, pattern := range []string{
		strings.Repeat("a*", 5000) + "b",
		strings.Repeat("*a", 5000) + "b",
		strings.Repeat("*a?", 3000) + "b",
		strings.Repeat("*", 5000) + "b",
		"*" + strings.Repeat("?", 5000) + "b",
		"*" + strings.Repeat("a", 5000) + "b*",
	} {
		start := time.Now()
		g, msg := compileGlob(pattern, true, false)
		if msg != "" {
			t.Fatal(msg)
		}
		if ok, _ := g.match(nil, value, 0); ok {
			t.Errorf("%.20q matches", pattern)
		}
		if d := time.Since(start); d > 3*time.Second {
			t.Errorf("%.20q took %v", pattern, d)
		}
	}
	if globFold(strings.Repeat("a*", 60)+"b", strings.Repeat("a", 128)) {
		t.Error("action matches")
	}
}

func TestEqualFold(t *testing.T) {
	for _, c := range []struct {
		a, b string
		want bool
	}{
		{"Alice", "aLICE", true},
		{"alice", "alic", false},
		{"s", "ſ", false},
		{"σ", "ς", false},
		{"Ä", "ä", true},
		{"\xff", "\xfe", false},
		{"\xff", "\xff", true},
		{"", "", true},
	} {
		if got := equalFold(c.a, c.b); got != c.want {
			t.Errorf("%q, %q: %v", c.a, c.b, got)
		}
	}
}

func TestActionMatch(t *testing.T) {
	for _, c := range []struct {
		pattern, action string
		want            bool
	}{
		{"*", "kms:Decrypt", true},
		{"kms:*", "kms:Decrypt", true},
		{"KMS:dEcRyPt", "kms:Decrypt", true},
		{"kms:Decrypt", "KMS:DECRYPT", true},
		{"kms:De*", "kms:Decrypt", true},
		{"kms:*rypt", "kms:Decrypt", true},
		{"kms:D?crypt", "kms:Decrypt", true},
		{"kms:ReEncrypt*", "kms:ReEncryptFrom", true},
		{"kms:GenerateDataKey", "kms:GenerateDataKeyWithoutPlaintext", false},
		{"s3:*", "kms:Decrypt", false},
		{"s3:*", "s3-object-lambda:Get", false},
	} {
		p, msg := compileAction(c.pattern)
		if msg != "" {
			t.Fatal(msg)
		}
		service, name, _ := strings.Cut(c.action, ":")
		if got := p.match(service, name); got != c.want {
			t.Errorf("%q against %q: %v, want %v", c.pattern, c.action, got, c.want)
		}
	}
}

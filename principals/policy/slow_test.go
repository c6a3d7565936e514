package policy

import (
	"fmt"
	"math/rand/v2"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"
	"unicode/utf8"
)

// worst is documents that take as long to match as their size allows, against the longest name of an object.
func worst() map[string]string {
	const bucket = "arn:aws:s3:::" + "bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb"
	statements := func(pattern func(n int) string, each, size int) string {
		var all []string
		for n := 0; (n+1)*(each+170) < size-100; n++ {
			all = append(all, fmt.Sprintf(`{"Effect":"Deny","Principal":"*","Action":"s3:*","Resource":%q}`, bucket+"/"+pattern(each)))
		}
		return doc(all...)
	}
	half := 2000
	return map[string]string{
		"question marks between letters": statements(func(n int) string { return "*" + strings.Repeat("a?", n/2) + "z*" }, half, MaxBucketPolicy),
		"question marks":                 statements(func(n int) string { return "*" + strings.Repeat("?", n) + "z*" }, half, MaxBucketPolicy),
		"one long literal":               statements(func(n int) string { return "*" + strings.Repeat("a", n) + "z*" }, half, MaxBucketPolicy),
		"a literal that nearly matches":  statements(func(n int) string { return "*?" + strings.Repeat("a", n) + "z*" }, half, MaxBucketPolicy),
		"asterisks":                      statements(func(n int) string { return strings.Repeat("*a", n/2) + "z" }, half, MaxBucketPolicy),
		"many short ones":                statements(func(n int) string { return "*?a?a?z*" }, 8, MaxBucketPolicy),
	}
}

// TestSlowToMatch: whoever may write a policy makes deciding by it slow to no more than this. What it took before segments were sifted was
// half a second.
func TestSlowToMatch(t *testing.T) {
	const most = 150 * time.Millisecond // measured: 14 ms, with the race detector 30
	runtime.LockOSThread()              // whose processor time is measured
	defer runtime.UnlockOSThread()
	object := "arn:aws:s3:::" + strings.Repeat("b", 63) + "/" + strings.Repeat("a", 4000)
	for name, text := range worst() {
		d := mustParse(t, BucketPolicy, text)
		alice := user(t, "alice", s3FullPolicy)
		req := &Request{Action: "s3:GetObject", Resource: object}
		best := time.Hour
		for range 3 {
			began := spent(t)
			sink = DecideS3(alice, req, d)
			best = min(best, spent(t)-began)
		}
		t.Logf("%s: %d bytes, %v", name, len(text), best)
		if best > most {
			t.Errorf("%s: a decision takes %v", name, best)
		}
	}
}

// spent is the processor time of this thread.
func spent(t *testing.T) time.Duration {
	t.Helper()
	const thread = 1 // RUSAGE_THREAD
	var u syscall.Rusage
	if err := syscall.Getrusage(thread, &u); err != nil {
		t.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// TestSift compares sifting with trying one index after another, across the borders of words and with bytes that are not UTF-8.
func TestSift(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 1))
	sifted, found := 0, 0
	for range 20000 {
		n := 1 + r.IntN(150)
		pattern := randomText(r, "a??ä:", n)
		text := randomText(r, "aaaä:", n+50)
		if r.IntN(4) == 0 {
			text += "\xc3" + randomText(r, "aä", n)
		}
		g, msg := compileGlob("*"+pattern+"*", true, false)
		if msg != "" || g.shape != shapeGeneral {
			continue
		}
		m := matcher{s: text}
		if r.IntN(2) == 0 {
			m.barrier = r.IntN(len(text) + 1)
		}
		seg := &g.segs[1]
		end, ok, did := m.sift(seg, 0, m.limit(0))
		if !did {
			t.Fatalf("%q was not sifted", pattern)
		}
		sifted++
		wantEnd, want := 0, false
		for i := 0; i <= m.limit(0) && !want; {
			wantEnd, want = m.at(seg, i)
			_, n := utf8.DecodeRuneInString(text[i:])
			i += max(n, 1)
		}
		if ok != want || ok && end != wantEnd {
			t.Fatalf("%q in %q, barrier %d: %v %d, want %v %d", pattern, text, m.barrier, ok, end, want, wantEnd)
		}
		if ok {
			found++
		}
	}
	t.Logf("%d sifted, %d found", sifted, found)
	if sifted < 10000 || found < 100 {
		t.Error("that compares nothing")
	}
}

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/urfave/cli/v2"

	"github.com/kmsfs/kmsfs/keystore/rootkey"
	"github.com/kmsfs/kmsfs/mount/control"
	"github.com/kmsfs/kmsfs/mount/host"
)

var update = flag.Bool("update", false, "write the golden files anew")

// kmsfs runs the program in this process.
func kmsfs(t *testing.T, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	return kmsfsIn(t, "", args...)
}

func kmsfsIn(t *testing.T, stdin string, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	var out, err bytes.Buffer
	code = run(context.Background(), append([]string{"kmsfs"}, args...), streams{strings.NewReader(stdin), &out, &err})
	return code, out.String(), err.String()
}

func cleanEnv(t *testing.T) string {
	t.Helper()
	for _, name := range []string{"KMSFS_PRINCIPAL", "KMSFS_PASSPHRASE_FILE", "CREDENTIALS_DIRECTORY"} {
		t.Setenv(name, "")
		_ = os.Unsetenv(name)
	}
	dir := filepath.Join(t.TempDir(), "store")
	t.Setenv("KMSFS_STORE", dir)
	return dir
}

// each calls fn for every command that people see, with its words.
func each(commands []*cli.Command, words []string, fn func(words []string, c *cli.Command)) {
	for _, c := range commands {
		if c.Hidden || c.Name == "help" {
			continue
		}
		w := append(append([]string(nil), words...), c.Name)
		fn(w, c)
		each(c.Subcommands, w, fn)
	}
}

func TestEveryCommandIsDescribed(t *testing.T) {
	app := newApp(streams{strings.NewReader(""), os.Stdout, os.Stderr})
	each(app.Commands, nil, func(words []string, c *cli.Command) {
		name := strings.Join(words, " ")
		if c.Usage == "" {
			t.Errorf("%s has no usage line", name)
		}
		if len(words) == 1 && c.Category == "" {
			t.Errorf("%s has no category", name)
		}
		if !strings.Contains(c.Description, "Example") || !strings.Contains(c.Description, "kmsfs ") {
			t.Errorf("%s has no example", name)
		}
		for _, line := range strings.Split(c.Description, "\n") {
			if len(line) > 120 {
				t.Errorf("%s: a line of %d characters: %s", name, len(line), line)
			}
		}
		for _, f := range c.Flags {
			if d, ok := f.(cli.DocGenerationFlag); ok && d.GetUsage() == "" {
				if v, ok := f.(cli.VisibleFlag); ok && v.IsVisible() {
					t.Errorf("%s: flag %v has no usage", name, f.Names())
				}
			}
		}
	})
}

func TestHelpGolden(t *testing.T) {
	cleanEnv(t)
	check := func(words ...string) {
		code, out, stderr := kmsfs(t, append(words, "--help")...)
		if code != exitOK || stderr != "" {
			t.Errorf("help of %v: status %d, %s", words, code, stderr)
		}
		path := filepath.Join("testdata", "help", strings.Join(append([]string{"kmsfs"}, words...), "-")+".txt")
		if *update {
			if err := os.WriteFile(path, []byte(out), 0o644); err != nil {
				t.Fatal(err)
			}
			return
		}
		want, err := os.ReadFile(path)
		if err != nil || out != string(want) {
			t.Errorf("help of %v differs from %s (-update writes it): %v\n%s", words, path, err, out)
		}
	}
	check()
	app := newApp(streams{strings.NewReader(""), os.Stdout, os.Stderr})
	each(app.Commands, nil, func(words []string, _ *cli.Command) { check(words...) })
}

func TestWrongUsageIsTwo(t *testing.T) {
	dir := cleanEnv(t)
	app := newApp(streams{strings.NewReader(""), os.Stdout, os.Stderr})
	each(app.Commands, nil, func(words []string, c *cli.Command) {
		code, out, stderr := kmsfs(t, append(words, "--no-such-flag")...)
		if code != exitUsage || out != "" || !strings.HasPrefix(stderr, "kmsfs: ") || !strings.Contains(stderr, "no-such-flag") {
			t.Errorf("%v --no-such-flag: status %d, %q, %q", words, code, out, stderr)
		}
		if len(c.Subcommands) > 0 && words[len(words)-1] != "backup" { // which takes a directory as well
			if code, _, stderr = kmsfs(t, append(words, "frobnicate")...); code != exitUsage || !strings.Contains(stderr, "frobnicate") {
				t.Errorf("%v frobnicate: status %d, %q", words, code, stderr)
			}
			if code, _, stderr = kmsfs(t, words...); code != exitUsage || !strings.Contains(stderr, "hint: ") {
				t.Errorf("%v alone: status %d, %q", words, code, stderr)
			}
		}
		if strings.Contains(c.ArgsUsage, "...") {
			return
		}
		many := append(append([]string(nil), words...), "a", "b", "c", "d")
		if code, _, stderr = kmsfs(t, many...); code != exitUsage {
			t.Errorf("%v: status %d, %q", many, code, stderr)
		}
	})
	for _, args := range [][]string{
		{"frobnicate"},
		{"--store"},
		{"key", "show"},
		{"bucket", "policy", "b", "--delete", "f"},
		{"key", "schedule-deletion", "k", "--days", "6"},
		{"why", "b/f", "--op", "fly"},
		{"grant", "create", "k"},
		{"rekey", "b/f"},
		{"rekey", "--to", "k"},
		{"unlock", "add", "tpm"},
		{"unlock", "add", "passphrase", "extra"},
		{"unlock", "add", "key-file"},
		{"key", "create", "--policy", "f", "--admin", "a"},
		{"policy", "simulate"},
		{"audit", "tail", "-n", "-1"},
		{"init", "--account", "1"},
		{"init", "--region", "a b"},
		{"init", "--passphrase-file", "x", "--key-file", "y"},
		{"key", "show", ""},
	} {
		if code, out, stderr := kmsfs(t, args...); code != exitUsage || out != "" || !strings.HasPrefix(stderr, "kmsfs: ") {
			t.Errorf("%v: status %d, %q, %q", args, code, out, stderr)
		}
	}
	if _, err := os.Stat(filepath.Join(dir, rootkey.HeaderFile)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("wrong usage made a store: %v", err)
	}
}

func TestReorder(t *testing.T) {
	app := newApp(streams{strings.NewReader(""), os.Stdout, os.Stderr})
	for in, want := range map[string]string{
		"grant create K --grantee P --operations Decrypt": "grant create --grantee P --operations Decrypt -- K",
		"bucket list --json":                              "--json bucket list",
		"bucket --store D list":                           "--store D bucket list",
		"--as=a mount D -o ro,x --principal p":            "--as=a mount -o ro,x --principal p -- D",
		"bucket policy b -":                               "bucket policy -- b -",
		"stat -- -odd --json":                             "stat -- -odd --json",
		"audit tail -f":                                   "audit tail -f",
		"init --passphrase-file F":                        "init --passphrase-file F",
		"key create --user a --user b --alias=x":          "key create --user a --user b --alias=x",
		"why b/f --op read extra":                         "why --op read -- b/f extra",
		"frob --x y":                                      "--x -- frob y",
		"key list list":                                   "key list -- list",
	} {
		got, err := reorder(app, append([]string{"kmsfs"}, strings.Fields(in)...))
		if err != nil || strings.Join(got[1:], " ") != want {
			t.Errorf("%s: %s, want %s (%v)", in, strings.Join(got[1:], " "), want, err)
		}
	}
	if _, err := reorder(app, []string{"kmsfs", "key", "create", "--alias"}); err == nil {
		t.Error("a flag without its value")
	}
}

func TestExitStatuses(t *testing.T) {
	for _, c := range []struct {
		err  error
		want int
	}{
		{errors.New("x"), exitFailed},
		{usage("x"), exitUsage},
		{fmt.Errorf("x: %w", host.ErrBusy), exitBusy},
		{fmt.Errorf("x: %w", host.ErrServed), exitBusy},
		{fmt.Errorf("x: %w", rootkey.ErrLocked), exitLocked},
		{fmt.Errorf("%w: %w", rootkey.ErrLocked, rootkey.ErrWrongPassphrase), exitLocked},
		{fmt.Errorf("x: %w", rootkey.ErrDamaged), exitDamaged},
		{fmt.Errorf("x: %w", rootkey.ErrUnsupported), exitUnsupported},
		{control.ErrHungUp, exitHungUp},
		{&control.Error{Message: "x", Exit: 5}, 5},
		{&control.Error{Message: "x"}, exitFailed},
	} {
		var w bytes.Buffer
		if got := report(context.Background(), &w, c.err); got != c.want {
			t.Errorf("%v: %d, want %d", c.err, got, c.want)
		}
	}
	help := exitHelp()
	for _, e := range exitTable {
		if !strings.Contains(help, e.text) {
			t.Errorf("the help lacks %q", e.text)
		}
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if got := report(ctx, &bytes.Buffer{}, context.Canceled); got != exitInterrupted {
		t.Errorf("interrupted: %d", got)
	}
}

// TestStoreWithoutDaemon goes once through a store's life in this process.
func TestStoreWithoutDaemon(t *testing.T) {
	dir := cleanEnv(t)
	must := func(args ...string) string {
		t.Helper()
		code, out, stderr := kmsfs(t, args...)
		if code != exitOK {
			t.Fatalf("%v: status %d, %s", args, code, stderr)
		}
		return out
	}
	fails := func(want int, text string, args ...string) {
		t.Helper()
		code, out, stderr := kmsfs(t, args...)
		if code != want || out != "" || !strings.Contains(stderr, text) {
			t.Errorf("%v: status %d, %q, %q; want %d and %q", args, code, out, stderr, want, text)
		}
	}
	fails(exitFailed, "hint: make one with: kmsfs init", "bucket", "list")
	code, out, stderr := kmsfs(t, "init", "--admin", "root-admin")
	if code != exitOK || out != "" || !strings.Contains(stderr, "administrator root-admin") || !strings.Contains(stderr, "next:") {
		t.Fatalf("init: %d %q %q", code, out, stderr)
	}
	fails(exitFailed, "exists", "init")

	id := strings.TrimSuffix(must("key", "create", "--alias", "my-key"), "\n")
	if len(id) != 36 || strings.ContainsAny(id, " \n") {
		t.Errorf("key create printed %q", id)
	}
	if out := must("key", "show", "alias/my-key"); !strings.Contains(out, id) {
		t.Errorf("key show: %s", out)
	}
	must("bucket", "create", "box", "--sse", "aws:kms:alias/my-key")
	if out := must("bucket", "list"); out != "box\n" {
		t.Errorf("bucket list: %q", out)
	}
	var buckets []host.BucketInfo
	if err := json.Unmarshal([]byte(must("bucket", "list", "--json")), &buckets); err != nil || len(buckets) != 1 {
		t.Errorf("json: %v %v", buckets, err)
	}
	if out := must("bucket", "encryption", "box"); out != "aws:kms:alias/my-key\n" {
		t.Errorf("encryption: %q", out)
	}
	policy := must("key", "policy", "alias/my-key")
	if code, _, stderr := kmsfsIn(t, policy, "key", "policy", "alias/my-key", "-"); code != exitOK {
		t.Errorf("a policy does not survive a round trip: %s", stderr)
	}
	must("principal", "create", "alice", "--uid", "12345", "--policy", "AmazonS3FullAccess")
	fails(exitFailed, "not authorized to perform: kms:CreateKey", "--as", "alice", "key", "create")
	if out := must("why", "box/new", "--op", "write", "--principal", "alice"); !strings.Contains(out, "refused") || !strings.Contains(out, "kms:GenerateDataKey") {
		t.Errorf("why: %s", out)
	}
	if out := must("why", "box/new", "--op", "write"); !regexp.MustCompile(`(?m)^      policy \S+, statement 1$`).MatchString(out) {
		t.Errorf("why: %s", out)
	}
	must("grant", "create", "alias/my-key", "--grantee", "alice", "--operations", "GenerateDataKey")
	if out := must("why", "box/new", "--op", "write", "--principal", "alice"); !regexp.MustCompile(`(?m)^      grant [0-9a-f]{64}$`).MatchString(out) {
		t.Errorf("why: %s", out)
	}
	fails(exitFailed, "no such", "--as", "nobody-here", "bucket", "list")
	if out := must("--json", "audit", "query", "--denied", "--principal", "alice"); !strings.Contains(out, `"eventName":"CreateKey"`) {
		t.Errorf("audit: %s", out)
	}
	must("audit", "verify")
	must("status")
	if code, _, stderr := kmsfs(t, "doctor"); code > exitFailed { // 1 on a machine without FUSE
		t.Errorf("doctor: %d %s", code, stderr)
	}

	// Another process has the store.
	lock, err := host.TryLock(dir, "command")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	var errs bytes.Buffer
	if code := run(ctx, []string{"kmsfs", "bucket", "list"}, streams{strings.NewReader(""), &errs, &errs}); code != exitInterrupted {
		t.Errorf("waiting for the lock was not interrupted: %d %s", code, errs.String())
	}
	lock.Release()

	// Unlocking.
	phrase := filepath.Join(t.TempDir(), "phrase")
	if err := os.WriteFile(phrase, []byte("open sesame\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	must("unlock", "add", "passphrase", "--new-passphrase-file", phrase)
	if err := os.Rename(filepath.Join(dir, "root.key"), filepath.Join(dir, "away")); err != nil {
		t.Fatal(err)
	}
	fails(exitLocked, "hint: ", "bucket", "list")
	if out := must("--passphrase-file", phrase, "bucket", "list"); out != "box\n" {
		t.Errorf("by passphrase: %q", out)
	}
	if err := os.WriteFile(phrase, []byte("close sesame\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	fails(exitLocked, "wrong passphrase", "--passphrase-file", phrase, "bucket", "list")
}

func TestInitLeavesNothingBehind(t *testing.T) {
	dir := cleanEnv(t)
	if code, _, stderr := kmsfs(t, "init", "--admin", "no spaces please"); code != exitFailed || !strings.Contains(stderr, "name") {
		t.Errorf("init: %d %s", code, stderr)
	}
	if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a store is there: %v", err)
	}
	full := t.TempDir()
	if err := os.WriteFile(filepath.Join(full, "mine"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if code, _, stderr := kmsfs(t, "--store", full, "init"); code != exitFailed || !strings.Contains(stderr, "not empty") {
		t.Errorf("init in a full directory: %d %s", code, stderr)
	}
	if _, err := os.Stat(filepath.Join(full, "mine")); err != nil {
		t.Error(err)
	}
}

func TestPolicyCommandsWithoutStore(t *testing.T) {
	cleanEnv(t)
	dir := t.TempDir()
	good := filepath.Join(dir, "good.json")
	if err := os.WriteFile(good, []byte(`{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":"s3:*","Resource":"*"}]}`), 0o600); err != nil {
		t.Fatal(err)
	}
	if code, out, _ := kmsfs(t, "policy", "check", good); code != exitOK || !strings.Contains(out, "identity policy") {
		t.Errorf("check: %d %s", code, out)
	}
	if code, _, stderr := kmsfs(t, "policy", "check", good, "--kind", "key"); code != exitFailed {
		t.Errorf("check as a key policy: %d %s", code, stderr)
	}
	// Which kind it is: what is said, or told by --key, or what the actions allow.
	statement := `{"Effect":"Allow","Principal":{"AWS":"111122223333"},"Action":%s,"Resource":"*"}`
	for _, k := range []struct {
		action, want string
		flags        []string
	}{
		{`"kms:*"`, "key policy", nil},
		{`"s3:GetObject"`, "bucket policy", nil},
		{`["s3:GetObject","kms:Decrypt"]`, "key policy", nil},
		{`"s3:GetObject"`, "key policy", []string{"--key", "alias/k"}},
		{`"s3:GetObject"`, "goes with a key policy, not", []string{"--key", "alias/k", "--kind", "bucket"}},
	} {
		path := filepath.Join(dir, "kind.json")
		text := `{"Version":"2012-10-17","Statement":[` + fmt.Sprintf(statement, k.action) + `]}`
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		code, out, stderr := kmsfs(t, append([]string{"--json", "policy", "check", path}, k.flags...)...)
		kind := strings.TrimSuffix(k.want, " policy")
		if kind == k.want {
			if code != exitUsage || !strings.Contains(stderr, k.want) {
				t.Errorf("%v: %d %s", k, code, stderr)
			}
		} else if !strings.Contains(out, `"kind": "`+kind+`"`) {
			t.Errorf("%v: %d %s %s", k, code, out, stderr)
		}
	}
	vectors := filepath.Join("..", "..", "principals", "policy", "testdata", "policy.json")
	code, out, stderr := kmsfs(t, "policy", "simulate", "--file", vectors)
	if code != exitOK || strings.Count(out, "\n") < 55 {
		t.Errorf("simulate: %d %s %s", code, out, stderr)
	}
	for line := range strings.Lines(out) { // id, expected, got, verdict, reason
		if f := strings.Fields(line); len(f) < 5 || f[1] != f[2] || f[3] != "ok" {
			t.Errorf("simulate prints %q", line)
		}
	}
	// One expectation turned round is one difference, and the exit status tells.
	text, err := os.ReadFile(vectors)
	if err != nil {
		t.Fatal(err)
	}
	turned := strings.Replace(string(text), `"expect": "DENY"`, `"expect": "ALLOW"`, 1)
	changed := filepath.Join(dir, "changed.json")
	if err := os.WriteFile(changed, []byte(turned), 0o600); err != nil || turned == string(text) {
		t.Fatal(err, turned == string(text))
	}
	code, out, stderr = kmsfs(t, "policy", "simulate", "--file", changed)
	if wrong := regexp.MustCompile(`(?m)^\S+ +ALLOW +DENY +WRONG +\S`).FindAllString(out, -1); code != exitFailed || len(wrong) != 1 ||
		strings.Count(out, "WRONG") != 1 || !strings.Contains(stderr, "1 of 73 answers differ") {
		t.Errorf("simulate with a changed expectation: %d %s %s", code, out, stderr)
	}
}

// TestJSONOfNothing: with --json a command that has nothing to say says an empty object, and a list of lines that is empty has none.
func TestJSONOfNothing(t *testing.T) {
	cleanEnv(t)
	for _, c := range []struct {
		args []string
		want string
	}{
		{[]string{"init"}, "{"},
		{[]string{"key", "create", "--alias", "k"}, "{"},
		{[]string{"alias", "create", "other", "alias/k"}, "{}\n"},
		{[]string{"alias", "delete", "other"}, "{}\n"},
		{[]string{"bucket", "create", "box"}, "{"},
		{[]string{"bucket", "delete", "box"}, "{}\n"},
		{[]string{"key", "files", "alias/k"}, ""},
	} {
		code, out, stderr := kmsfs(t, append([]string{"--json"}, c.args...)...)
		if code != exitOK || c.want == "{" && !json.Valid([]byte(out)) || c.want != "{" && out != c.want {
			t.Errorf("%v: %d %q %s", c.args, code, out, stderr)
		}
	}
	if code, out, _ := kmsfs(t, "alias", "create", "other", "alias/k"); code != exitOK || out != "" {
		t.Errorf("without --json: %d %q", code, out)
	}
}

func TestMessages(t *testing.T) {
	for in, want := range map[string]string{
		"Flag missing":               "flag missing",
		"AccessDenied: User: x":      "AccessDenied: User: x",
		"KMSInvalidState: x":         "KMSInvalidState: x",
		"User: arn is not":           "User: arn is not",
		"flag provided":              "flag provided",
		"":                           "",
		"NotFoundException: Invalid": "NotFoundException: Invalid",
	} {
		if got := lowerFirst(in); got != want {
			t.Errorf("%q: %q, want %q", in, got, want)
		}
	}
	if got := quotePath("a\nb"); got != `"a\nb"` {
		t.Errorf("quoted: %s", got)
	}
}

package mount

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"strings"

	"github.com/kmsfs/kmsfs/crypto"
	"github.com/kmsfs/kmsfs/fs"
)

// choice is an encryption as somebody asked for it, not yet resolved: what user.s3.sse, user.s3.encryption or a mount option say.
type choice struct {
	method    fs.Method      // None: nothing was asked for
	key       string         // id, ARN or alias as written; empty: aws/s3
	bucketKey bool           //
	context   crypto.Context // further pairs
	header    bool           // it stands for a request header and not for a default
	explicit  bool           // it was chosen for this very file
}

const maxSSE = 8192 // bytes of a value in the short grammar

// parseSSE reads the short grammar:
//
//	AES256 | aws:kms | aws:kms:KEY   [;bucket-key=true|false] [;context=BASE64(JSON)]
//
// It returns ErrUnsupported for what S3 knows and this file system does not (aws:kms:dsse, SSE-C).
func parseSSE(text string) (choice, error) {
	var c choice
	bad := func(why string) (choice, error) {
		return choice{}, fmt.Errorf("encryption %q: %s: %w", clip(text), why, ErrInvalid)
	}
	if len(text) > maxSSE {
		return bad("too long")
	}
	mode, rest, more := strings.Cut(text, ";")
	switch {
	case mode == "AES256":
		c.method = fs.SSES3
	case mode == "aws:kms":
		c.method = fs.SSEKMS
	case mode == "aws:kms:dsse" || strings.HasPrefix(mode, "aws:kms:dsse:"):
		return choice{}, fmt.Errorf("encryption %q: %w", clip(text), ErrUnsupported)
	case strings.HasPrefix(mode, "aws:kms:"):
		c.method, c.key = fs.SSEKMS, mode[len("aws:kms:"):]
		if !plausibleKey(c.key) {
			return bad("not a key id, key ARN or alias")
		}
	default:
		return bad("neither AES256 nor aws:kms")
	}
	seen := map[string]bool{}
	for more {
		var opt string
		opt, rest, more = strings.Cut(rest, ";")
		name, value, _ := strings.Cut(opt, "=")
		if seen[name] {
			return bad("an option twice")
		}
		seen[name] = true
		if c.method != fs.SSEKMS {
			return bad("options need aws:kms")
		}
		switch name {
		case "bucket-key":
			if value != "true" && value != "false" {
				return bad("bucket-key is true or false")
			}
			c.bucketKey = value == "true"
		case "context":
			ctx, err := parseContext(value)
			if err != nil {
				return bad(err.Error())
			}
			c.context = ctx
		default:
			return bad("unknown option")
		}
	}
	return c, nil
}

// CheckSSE refuses what is not in the short grammar of encryptions, as the mount option sse= takes it.
func CheckSSE(text string) error {
	_, err := parseSSE(text)
	return err
}

// parseContext reads base64 of a JSON object of strings.
func parseContext(text string) (crypto.Context, error) {
	raw, err := base64.StdEncoding.DecodeString(text)
	if err != nil {
		return nil, fmt.Errorf("context is not base64")
	}
	var ctx crypto.Context
	if err := strictJSON(raw, &ctx); err != nil {
		return nil, fmt.Errorf("context is not a JSON object of strings")
	}
	return ctx, nil
}

func strictJSON(raw []byte, into any) error {
	d := json.NewDecoder(bytes.NewReader(raw))
	d.DisallowUnknownFields()
	if err := d.Decode(into); err != nil {
		return err
	}
	if _, err := d.Token(); err != io.EOF {
		return fmt.Errorf("something behind the value")
	}
	return nil
}

// plausibleKey keeps out what cannot name a key; whether the key exists is asked when it is used.
func plausibleKey(key string) bool {
	if key == "" || len(key) > 2048 || strings.HasSuffix(key, "alias/") {
		return false
	}
	for i := 0; i < len(key); i++ {
		if c := key[i]; c <= ' ' || c >= 0x7f {
			return false
		}
	}
	return true
}

func clip(text string) string {
	if len(text) > 80 {
		return text[:80] + "…"
	}
	return text
}

// short writes a choice in the short grammar.
func (c choice) short() string {
	if c.method == fs.SSES3 {
		return "AES256"
	}
	s := "aws:kms"
	if c.key != "" {
		s += ":" + c.key
	}
	if c.bucketKey {
		s += ";bucket-key=true"
	}
	if len(c.context) > 0 {
		raw, _ := json.Marshal(c.context)
		s += ";context=" + base64.StdEncoding.EncodeToString(raw)
	}
	return s
}

// The document of PutBucketEncryption.
type encryptionConfig struct {
	Rules []encryptionRule `json:"Rules"`
}

type encryptionRule struct {
	Apply            *applyDefault `json:"ApplyServerSideEncryptionByDefault,omitempty"`
	BucketKeyEnabled bool          `json:"BucketKeyEnabled"`
}

type applyDefault struct {
	SSEAlgorithm   string `json:"SSEAlgorithm"`
	KMSMasterKeyID string `json:"KMSMasterKeyID,omitempty"`
}

// parseEncryption reads a bucket's default encryption: S3's JSON, or the short grammar. Empty means SSE-S3.
func parseEncryption(text string) (choice, error) {
	text = strings.TrimSpace(text)
	if text == "" {
		return choice{method: fs.SSES3}, nil
	}
	if text[0] != '{' {
		c, err := parseSSE(text)
		if err == nil && len(c.context) > 0 {
			return choice{}, fmt.Errorf("a bucket's default carries no context: %w", ErrInvalid)
		}
		return c, err
	}
	var conf encryptionConfig
	if err := strictJSON([]byte(text), &conf); err != nil {
		return choice{}, fmt.Errorf("encryption configuration: %w: %w", err, ErrInvalid)
	}
	if len(conf.Rules) != 1 || conf.Rules[0].Apply == nil {
		return choice{}, fmt.Errorf("encryption configuration: exactly one rule with ApplyServerSideEncryptionByDefault: %w", ErrInvalid)
	}
	r := conf.Rules[0]
	c := choice{bucketKey: r.BucketKeyEnabled, key: r.Apply.KMSMasterKeyID}
	switch r.Apply.SSEAlgorithm {
	case "AES256":
		c.method = fs.SSES3
		if c.key != "" {
			return choice{}, fmt.Errorf("a KMSMasterKeyID is not applicable with AES256: %w", ErrInvalid)
		}
	case "aws:kms":
		c.method = fs.SSEKMS
		if c.key != "" && !plausibleKey(c.key) {
			return choice{}, fmt.Errorf("encryption configuration: KMSMasterKeyID: %w", ErrInvalid)
		}
	case "aws:kms:dsse":
		return choice{}, fmt.Errorf("aws:kms:dsse: %w", ErrUnsupported)
	default:
		return choice{}, fmt.Errorf("encryption configuration: SSEAlgorithm: %w", ErrInvalid)
	}
	return c, nil
}

// encryptionJSON is the canonical form of a bucket's default.
func encryptionJSON(c choice) string {
	a := applyDefault{SSEAlgorithm: "AES256"}
	if c.method == fs.SSEKMS {
		a = applyDefault{SSEAlgorithm: "aws:kms", KMSMasterKeyID: c.key}
	}
	raw, _ := json.Marshal(encryptionConfig{Rules: []encryptionRule{{Apply: &a, BucketKeyEnabled: c.bucketKey}}})
	return string(raw)
}

package mount

import (
	"net/netip"
	"strings"
	"unicode/utf8"
)

const s3Prefix = "arn:aws:s3:::"

// EncodeKey writes an object's key as ARNs, contexts and audit lines show it: "%" and what is not UTF-8 become %XX, everything else
// stays, so that two keys never look the same.
func EncodeKey(key string) string {
	if utf8.ValidString(key) && strings.IndexByte(key, '%') < 0 {
		return key
	}
	const hex = "0123456789ABCDEF"
	var b strings.Builder
	b.Grow(len(key) + 16)
	for i := 0; i < len(key); {
		r, n := utf8.DecodeRuneInString(key[i:])
		if r == '%' || r == utf8.RuneError && n == 1 {
			b.WriteByte('%')
			b.WriteByte(hex[key[i]>>4])
			b.WriteByte(hex[key[i]&15])
			i++
			continue
		}
		b.WriteString(key[i : i+n])
		i += n
	}
	return b.String()
}

func bucketARN(bucket string) string { return s3Prefix + bucket }

// ObjectARN is the ARN of an object; that of key "" is the bucket's.
func ObjectARN(bucket, key string) string {
	if key == "" {
		return bucketARN(bucket)
	}
	return s3Prefix + bucket + "/" + EncodeKey(key)
}

// ValidBucketName reports whether S3 would take the name for a general purpose bucket.
func ValidBucketName(name string) bool {
	if len(name) < 3 || len(name) > 63 {
		return false
	}
	for i := 0; i < len(name); i++ {
		c := name[i]
		alnum := c >= 'a' && c <= 'z' || c >= '0' && c <= '9'
		if !alnum && (c != '-' && c != '.' || i == 0 || i == len(name)-1) {
			return false
		}
	}
	if strings.Contains(name, "..") {
		return false
	}
	if a, err := netip.ParseAddr(name); err == nil && a.Is4() {
		return false
	}
	for _, p := range []string{"xn--", "sthree-", "amzn-s3-demo-"} {
		if strings.HasPrefix(name, p) {
			return false
		}
	}
	for _, s := range []string{"-s3alias", "--ol-s3", ".mrap", "--x-s3", "--table-s3"} {
		if strings.HasSuffix(name, s) {
			return false
		}
	}
	return !looksLikeIPv4(name)
}

// looksLikeIPv4 catches what netip refuses for leading zeros or size, and S3 refuses for its form.
func looksLikeIPv4(name string) bool {
	parts := strings.Split(name, ".")
	if len(parts) != 4 {
		return false
	}
	for _, p := range parts {
		if p == "" || strings.Trim(p, "0123456789") != "" {
			return false
		}
	}
	return true
}

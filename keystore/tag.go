package keystore

import (
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/kmsfs/kmsfs/keystore/audit"
	"github.com/kmsfs/kmsfs/principals/policy"
)

func auditTags(tags []Tag) []audit.Tag {
	var out []audit.Tag
	for _, t := range tags {
		out = append(out, audit.Tag{TagKey: t.Key, TagValue: t.Value})
	}
	return out
}

func addRequestTags(keys policy.MapKeys, tags []Tag) {
	var names []string
	for _, t := range tags {
		keys.Add("aws:RequestTag/"+t.Key, t.Value)
		names = append(names, t.Key)
	}
	if len(names) > 0 {
		keys.Add("aws:TagKeys", names...)
	}
}

func checkTags(tags []Tag) error {
	if len(tags) > maxTags {
		return refuse(CodeTag, "Too many tags")
	}
	seen := map[string]bool{}
	for _, t := range tags {
		if err := checkTagKey(t.Key); err != nil {
			return err
		}
		switch {
		case utf8.RuneCountInString(t.Value) > 256:
			return refuse(CodeValidation, "1 validation error detected: a tag's value has at most 256 characters")
		case strings.ContainsFunc(t.Value, notOfTags):
			return refuse(CodeTag, "Invalid tag value: it may contain letters, digits, white space and _ . : / = + - @")
		case seen[t.Key]:
			return refuse(CodeTag, "Duplicate tag keys")
		}
		seen[t.Key] = true
	}
	return nil
}

func checkTagKey(key string) error {
	switch n := utf8.RuneCountInString(key); {
	case strings.HasPrefix(strings.ToLower(key), "aws:"):
		return refuse(CodeTag, "Tags beginning with aws: are reserved")
	case n < 1 || n > 128:
		return refuse(CodeValidation, "1 validation error detected: a tag's key has 1 to 128 characters")
	case strings.ContainsFunc(key, notOfTags):
		return refuse(CodeTag, "Invalid tag key: it may contain letters, digits, white space and _ . : / = + - @")
	}
	return nil
}

// notOfTags reports whether a character may not be in tags of AWS.
func notOfTags(r rune) bool {
	return r == utf8.RuneError || !unicode.In(r, unicode.L, unicode.Z, unicode.N) && !strings.ContainsRune("_.:/=+-@", r)
}

// TagResource sets tags of a key, replacing those of the same name.
func (s *Service) TagResource(c *Call, ref string, tags []Tag) error {
	if err := checkTags(tags); err != nil {
		return err
	}
	keys := policy.MapKeys{}
	addRequestTags(keys, tags)
	return s.change(c, opTagResource, ref, audit.Parameters{KeyID: ref, Tags: auditTags(tags)}, keys, func(ch *changing) error {
		for _, t := range tags {
			ch.rec.Tags = append(withoutTag(ch.rec.Tags, t.Key), t)
		}
		if len(ch.rec.Tags) > maxTags {
			return refuse(CodeTag, "Too many tags")
		}
		return nil
	})
}

func withoutTag(tags []Tag, name string) []Tag {
	return slices.DeleteFunc(slices.Clone(tags), func(t Tag) bool { return t.Key == name })
}

// UntagResource removes tags; names that are not there are ignored.
func (s *Service) UntagResource(c *Call, ref string, names []string) error {
	for _, name := range names {
		if err := checkTagKey(name); err != nil {
			return err
		}
	}
	keys := policy.MapKeys{}
	keys.Add("aws:TagKeys", names...)
	return s.change(c, opUntagResource, ref, audit.Parameters{KeyID: ref, TagKeys: names}, keys, func(ch *changing) error {
		for _, name := range names {
			ch.rec.Tags = withoutTag(ch.rec.Tags, name)
		}
		return nil
	})
}

// ListResourceTags is a key's tags.
func (s *Service) ListResourceTags(c *Call, ref string) ([]Tag, error) {
	var tags []Tag
	err := s.read(c, opListResourceTags, ref, audit.Parameters{KeyID: ref}, func(_ *key, snap *snapshot) error {
		tags = slices.Clone(snap.rec.Tags)
		return nil
	})
	return tags, err
}

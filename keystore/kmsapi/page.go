package kmsapi

import (
	"encoding/base64"
	"slices"
	"strings"
)

const maxMarker = 1024

// paging reads Limit and Marker.
func (r *request) paging(normal, most int) (limit int, marker string) {
	limit, given := r.in.number("Limit", 1, most)
	if !given {
		limit = normal
	}
	return limit, r.in.text("Marker", rule{min: 1, max: maxMarker})
}

// page is the part of a list that follows a marker, in the order of the keys, at
// most limit long. The next marker names the last key of the part, so that
// what is added or removed meanwhile neither repeats nor hides the rest.
func page[T any](r *request, items []T, limit int, marker string, key func(T) string) (part []T, answer out, err error) {
	after := ""
	if marker != "" {
		b, err := base64.RawURLEncoding.DecodeString(marker)
		last, ok := strings.CutPrefix(string(b), r.name+"\x00")
		if err != nil || !ok {
			return nil, nil, refuse(codeInvalidMarker, "Could not deserialize marker '%.80s'", marker)
		}
		after = last
	}
	slices.SortFunc(items, func(a, b T) int { return strings.Compare(key(a), key(b)) })
	items = slices.DeleteFunc(items, func(v T) bool { return marker != "" && key(v) <= after })
	answer = out{"Truncated": len(items) > limit}
	if len(items) > limit {
		items = items[:limit]
		answer["NextMarker"] = base64.RawURLEncoding.EncodeToString([]byte(r.name + "\x00" + key(items[limit-1])))
	}
	return items, answer, nil
}

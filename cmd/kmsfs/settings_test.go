package main

import (
	"strings"
	"testing"
)

func TestRuntimeSettings(t *testing.T) {
	for godebug, want := range map[string]bool{
		"":                                true,
		"madvdontneed=1":                  true,
		"clobberfree=1":                   true,
		"asyncpreemptoff=1":               true,
		"clobberfree=0,asyncpreemptoff=0": true,
		"clobberfree=1,asyncpreemptoff=1,clobberfree=0":   true,
		"clobberfree=1,asyncpreemptoff=1":                 false,
		"asyncpreemptoff=1,madvdontneed=1,clobberfree=1":  false,
		"clobberfree=0,asyncpreemptoff=1,clobberfree=1":   false,
		"clobberfree=1,asyncpreemptoff=10,notclobberfree": true,
	} {
		if startsAnew := !isSet(godebug); startsAnew != want {
			t.Errorf("GODEBUG=%s: starts anew %v, want %v", godebug, startsAnew, want)
		}
		t.Setenv("GODEBUG", godebug)
		var set []string
		for _, v := range withSettings() {
			if strings.HasPrefix(v, "GODEBUG=") {
				set = append(set, strings.TrimPrefix(v, "GODEBUG="))
			}
		}
		if len(set) != 1 || !isSet(set[0]) || !strings.HasPrefix(set[0], godebug) {
			t.Errorf("GODEBUG=%s: a daemon gets %q", godebug, set)
		}
	}
}

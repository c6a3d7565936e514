package fusefs

import (
	"os"
	"strconv"
	"strings"
)

// groupsOf gives the supplementary groups of a process that waits for our answer. The kernel does not send them. If they cannot be had
// there are none.
func groupsOf(pid uint32) []uint32 {
	status, err := os.ReadFile("/proc/" + strconv.FormatUint(uint64(pid), 10) + "/status")
	if err != nil {
		return nil
	}
	return parseGroups(string(status))
}

func parseGroups(status string) (groups []uint32) {
	for line := range strings.Lines(status) {
		list, ok := strings.CutPrefix(line, "Groups:")
		if !ok {
			continue
		}
		for _, word := range strings.Fields(list) {
			gid, err := strconv.ParseUint(word, 10, 32)
			if err != nil {
				return nil
			}
			groups = append(groups, uint32(gid))
		}
	}
	return groups
}

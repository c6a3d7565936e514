package audit

import (
	"fmt"
	"os"
	"path/filepath"
)

// Part is a file of the log as far as it holds whole records.
type Part struct {
	Name string // in the log's directory
	Path string
	Size int64 // bytes
}

// Parts lists what of the log is written now, for a copy of it: every event whose Append returned before is in it. The log goes on
// meanwhile; what is listed does not change any more.
func (l *Log) Parts() ([]Part, error) {
	end, err := l.drain()
	if err != nil {
		return nil, err
	}
	files, err := l.reader.indexes()
	if err != nil {
		return nil, err
	}
	var out []Part
	for _, index := range files {
		if index > end.file {
			break
		}
		p := Part{Name: fileName(index), Path: filepath.Join(l.reader.dir, fileName(index)), Size: end.offset}
		if index < end.file { // nothing is appended to it any more
			st, err := os.Stat(p.Path)
			if err != nil {
				return nil, fmt.Errorf("audit: %w", err)
			}
			p.Size = st.Size()
		}
		out = append(out, p)
	}
	return out, nil
}

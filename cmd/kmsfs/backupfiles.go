package main

import (
	"errors"
	"io"
	"io/fs"

	"github.com/kmsfs/kmsfs/fs/backup"
	"github.com/kmsfs/kmsfs/mount/host"
)

// A daemon opens no files outside its store. The command that asks for a backup does it for it: askedFiles is the daemon's end,
// fileServer the command's.

// What is asked for.
const (
	opOpen   = "open"
	opList   = "list"
	opRead   = "read"
	opWrite  = "write"
	opCommit = "commit"
	opRemove = "remove"
)

// maxRead is the longest read that is served, in bytes: it has to fit into a request.
const maxRead = 2 << 20

// fileErrors are those that the other end tells apart.
var fileErrors = map[string]error{
	"not-exist": fs.ErrNotExist, "eof": io.ErrUnexpectedEOF, "foreign": backup.ErrForeign, "busy": backup.ErrBusy,
}

// askedError is an error of the other end.
type askedError struct {
	text string
	kind error
}

func (e *askedError) Error() string { return e.text }
func (e *askedError) Unwrap() error { return e.kind }

// askedFiles are files that somebody else opens.
type askedFiles struct{ asker host.BackupAsk }

func (f askedFiles) ask(op host.BackupOp) (host.BackupAnswer, error) {
	a, err := f.asker(op, true)
	if err == nil && a.Error != "" {
		err = &askedError{a.Error, fileErrors[a.Kind]}
	}
	return a, err
}

// List implements backup.Files.
func (f askedFiles) List(dir string) (map[string]int64, error) {
	a, err := f.ask(host.BackupOp{Op: opList, Name: dir})
	return a.Sizes, err
}

// ReadAt implements backup.Files.
func (f askedFiles) ReadAt(name string, p []byte, off int64) error {
	a, err := f.ask(host.BackupOp{Op: opRead, Name: name, Offset: off, Length: len(p)})
	if err == nil && copy(p, a.Data) != len(p) {
		err = io.ErrUnexpectedEOF
	}
	return err
}

// WriteAt implements backup.Files. An error comes with the next answer.
func (f askedFiles) WriteAt(name string, p []byte, off int64) error {
	_, err := f.asker(host.BackupOp{Op: opWrite, Name: name, Offset: off, Data: p}, false)
	return err
}

// Commit implements backup.Files.
func (f askedFiles) Commit(name, to string) error {
	_, err := f.ask(host.BackupOp{Op: opCommit, Name: name, To: to})
	return err
}

// Remove implements backup.Files.
func (f askedFiles) Remove(name string) error {
	_, err := f.ask(host.BackupOp{Op: opRemove, Name: name})
	return err
}

// fileServer does what a daemon asks for, in one directory and with the names that a backup has.
type fileServer struct {
	dir    string
	files  backup.Files
	done   func()
	failed error // of a write; told with the next commit
}

var errNotOpen = errors.New("no backup directory is open")

// serve does one thing. Writes are not answered.
func (s *fileServer) serve(op host.BackupOp) (answer host.BackupAnswer, answered bool) {
	answer.Session = op.Session
	var err error
	switch {
	case op.Op == opOpen && s.files == nil:
		if op.Write {
			s.files, s.done, err = backup.OpenFilesForWriting(s.dir, op.Create)
		} else {
			s.files, s.done, err = backup.OpenFiles(s.dir)
		}
		if err != nil {
			s.files, s.done = nil, func() {}
		}
	case s.files == nil:
		err = errNotOpen
	case op.Op == opList:
		answer.Sizes, err = s.files.List(op.Name)
	case op.Op == opRead && op.Length >= 0 && op.Length <= maxRead:
		answer.Data = make([]byte, op.Length)
		err = s.files.ReadAt(op.Name, answer.Data, op.Offset)
	case op.Op == opWrite:
		if s.failed == nil {
			s.failed = s.files.WriteAt(op.Name, op.Data, op.Offset)
		}
		return answer, false
	case op.Op == opCommit:
		if err = s.failed; err == nil {
			err = s.files.Commit(op.Name, op.To)
		}
		s.failed = nil
	case op.Op == opRemove:
		err = s.files.Remove(op.Name)
	default:
		err = errNotOpen
	}
	if err != nil {
		answer.Data, answer.Error = nil, err.Error()
		for kind, is := range fileErrors {
			if errors.Is(err, is) {
				answer.Kind = kind
			}
		}
	}
	return answer, true
}

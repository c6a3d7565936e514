package audit

import (
	"errors"
	"fmt"
	"time"
)

// Settings say how the log is kept. The zero value is what a log has by default: not strict, files of 64 MiB, nothing is ever removed.
type Settings struct {
	// Strict has Append return when the event is durable, and fail if it cannot be made so.
	Strict bool `json:"strict,omitempty"`
	// MaxFileSize is the number of bytes after which a new file begins; 0 = 64 MiB.
	MaxFileSize int64 `json:"maxFileSize,omitempty"`
	// MaxFileAge is the age of a file's first event at which a new file begins with the next event; 0 = any.
	MaxFileAge time.Duration `json:"maxFileAge,omitempty"`
	// KeepSize is the number of bytes that all files together may have before the oldest is removed; 0 = any. The newest file always
	// stays, and so the log may be larger by one file.
	KeepSize int64 `json:"keepSize,omitempty"`
	// KeepAge is the age at which events are removed, a file at a time: when its youngest event is that old. 0 = never.
	KeepAge time.Duration `json:"keepAge,omitempty"`
}

// The size of files unless another is set, and the least values that make sense: a file holds at least a few events, so that headers do not dominate.
const (
	DefaultFileSize = 64 << 20
	MinFileSize     = 4096
	MinAge          = time.Minute
)

// ErrSettings means settings that make no sense.
var ErrSettings = errors.New("audit: wrong settings")

// Check says what is wrong with the settings: ErrSettings.
func (s Settings) Check() error {
	_, err := s.check()
	return err
}

// check gives the settings with defaults filled in.
func (s Settings) check() (Settings, error) {
	if s.MaxFileSize == 0 {
		s.MaxFileSize = DefaultFileSize
	}
	switch {
	case s.MaxFileSize < MinFileSize:
		return s, fmt.Errorf("%w: files of %d bytes, at least %d", ErrSettings, s.MaxFileSize, MinFileSize)
	case s.KeepSize < 0 || s.KeepSize > 0 && s.KeepSize < s.MaxFileSize:
		return s, fmt.Errorf("%w: %d bytes to be kept are less than one file of %d", ErrSettings, s.KeepSize, s.MaxFileSize)
	case s.MaxFileAge != 0 && s.MaxFileAge < MinAge, s.KeepAge != 0 && s.KeepAge < MinAge:
		return s, fmt.Errorf("%w: an age is at least %v", ErrSettings, MinAge)
	}
	return s, nil
}

// Settings are those in force.
func (l *Log) Settings() Settings { return *l.settings.Load() }

// Configure changes the settings. They count from the next event on; what is too old or too much for them is removed at once.
// ErrSettings if they make no sense.
func (l *Log) Configure(s Settings) error {
	s, err := s.check()
	if err != nil {
		return err
	}
	l.settings.Store(&s)
	_, err = l.Expire()
	return err
}

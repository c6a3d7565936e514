package host

import (
	"context"
	"errors"
	"io"
	"os"
	"time"
)

// A supervisor is a tiny child of the daemon that holds the read end of a
// pipe. When the daemon leaves in order it says goodbye; when it is killed the
// pipe just ends, and then the supervisor ends the mounts that it left behind.
// It holds no key, no FUSE descriptor and no lock while the daemon lives.

const goodbye = "bye"

// Supervise runs in the child: it waits for the end of pipe and cleans up
// after the daemon of the store in dir if that was not in order. Should a new
// daemon have the store by then, it has cleaned up itself.
func Supervise(ctx context.Context, pipe io.Reader, dir, storeID string) error {
	said, err := io.ReadAll(io.LimitReader(pipe, 64))
	if err != nil {
		return err
	}
	if string(said) == goodbye {
		return nil
	}
	const patience, pause = 10 * time.Second, 20 * time.Millisecond
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	tick := time.NewTicker(pause)
	defer tick.Stop()
	for {
		lock, err := TryLock(dir, "supervisor")
		if err == nil {
			_, err = EndDead(context.WithoutCancel(ctx), storeID)
			lock.Release()
			return err
		}
		// The kernel may end the pipe before it takes the lock back: then the daemon that seems to serve is the dying one.
		served := errors.Is(err, ErrServed)
		if !served && !errors.Is(err, ErrBusy) {
			return err
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			if served {
				return nil
			}
			return err
		}
	}
}

// Goodbye tells the supervisor behind pipe that nothing is left to do.
func Goodbye(pipe *os.File) {
	_, _ = pipe.WriteString(goodbye)
	_ = pipe.Close()
}

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/kmsfs/kmsfs/keystore/rootkey"
	"github.com/kmsfs/kmsfs/mount/control"
	"github.com/kmsfs/kmsfs/mount/host"
)

const (
	lockPatience = 60 * time.Second      // how long a command waits for another one
	lockNotice   = time.Second           // after which it says so
	lockPause    = 20 * time.Millisecond // between two looks
	daemonStart  = 120 * time.Second     // for a daemon to come up, recovery included
)

// call runs one command and decodes its result, which may be nil.
func call(c *cli.Context, command string, args, result any) error {
	return stream(c, command, args, result, nil)
}

// stream runs one command whose items go to onItem as they come.
func stream(c *cli.Context, command string, args, result any, onItem func(json.RawMessage) error) error {
	req, err := request(c, command, args)
	if err != nil {
		return err
	}
	dir, err := storeDir(c)
	if err != nil {
		return err
	}
	if o, ok := c.App.Metadata[metaOutput].(*output); ok && onItem != nil {
		o.lines = true
	}
	out, err := perform(c, dir, req, onItem)
	if err != nil {
		return err
	}
	if result == nil || len(out) == 0 {
		return nil
	}
	if err := json.Unmarshal(out, result); err != nil {
		return fmt.Errorf("read the result of %s: %w", command, err)
	}
	return nil
}

func request(c *cli.Context, command string, args any) (control.Request, error) {
	b, err := json.Marshal(args)
	if err != nil {
		return control.Request{}, fmt.Errorf("encode the arguments: %w", err)
	}
	return control.Request{Command: command, As: c.String("as"), Args: b}, nil
}

// perform asks the daemon, or does it here when there is none: then it holds
// the store's lock meanwhile. Whoever is here second waits.
func perform(c *cli.Context, dir string, req control.Request, onItem func(json.RawMessage) error) (json.RawMessage, error) {
	var lock *host.Lock
	err := await(c, func() (bool, error) {
		out, err := ask(c.Context, dir, req, onItem)
		if !notThere(err) {
			return true, &answerOf{out, err}
		}
		if err := mayOpen(dir); err != nil {
			return true, err
		}
		lock, err = host.TryLock(dir, "command")
		if errors.Is(err, host.ErrBusy) || errors.Is(err, host.ErrServed) { // it is coming up or going down
			return false, err
		}
		return true, err
	})
	var answered *answerOf
	if errors.As(err, &answered) {
		return answered.out, answered.err
	}
	if err != nil {
		return nil, err
	}
	defer lock.Release()
	return here(c, dir, req, onItem)
}

// answerOf carries a daemon's answer out of await.
type answerOf struct {
	out json.RawMessage
	err error
}

func (a *answerOf) Error() string { return "answered" }

// await repeats try until it is done, telling the user when that takes long.
func await(c *cli.Context, try func() (done bool, err error)) error {
	notice, patience := time.NewTimer(lockNotice), time.NewTimer(lockPatience)
	tick := time.NewTicker(lockPause)
	defer notice.Stop()
	defer patience.Stop()
	defer tick.Stop()
	for {
		done, err := try()
		if done {
			return err
		}
		select {
		case <-tick.C:
		case <-notice.C:
			note(c, "waiting for another kmsfs process that holds the store")
		case <-patience.C:
			return err
		case <-c.Done():
			return c.Err()
		}
	}
}

func ask(ctx context.Context, dir string, req control.Request, onItem func(json.RawMessage) error) (json.RawMessage, error) {
	client, err := control.Dial(ctx, filepath.Join(dir, host.SocketFile))
	if err != nil {
		return nil, err
	}
	return client.Call(ctx, req, onItem)
}

// here does a command in this process, through the same Dispatch.
func here(c *cli.Context, dir string, req control.Request, onItem func(json.RawMessage) error) (out json.RawMessage, err error) {
	if err := host.Harden(); err != nil {
		return nil, err
	}
	log, logFile, err := commandLog(dir)
	if err != nil {
		return nil, err
	}
	defer func() { _ = logFile.Close() }()
	s, err := openStore(dir, openOptions{Unlock: unlocker(c), Log: log})
	if err != nil {
		return nil, err
	}
	defer func() {
		if cerr := s.Close(); err == nil && cerr != nil {
			out, err = nil, cerr
		}
	}()
	d, err := s.Host(nil, false, nil)
	if err != nil {
		return nil, err
	}
	emit := func(item any) error {
		b, err := json.Marshal(item)
		if err == nil && onItem != nil {
			err = onItem(b)
		}
		return err
	}
	resp := d.Dispatch(c.Context, self(), req, emit)
	if err := d.Shutdown(context.WithoutCancel(c.Context)); err != nil {
		return nil, err
	}
	if resp.Error != nil {
		return nil, resp.Error
	}
	return resp.Result, nil
}

// mayOpen says early and clearly why this user cannot open the store in dir:
// it is not there, or it is someone else's. Root does not open another
// user's store either, because what he wrote there would be root's; nor
// anything in another user's directory, whose links he would follow.
func mayOpen(dir string) error {
	st, err := os.Lstat(filepath.Join(dir, headerFile))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("%w: %s", rootkey.ErrNoStore, dir)
	case errors.Is(err, fs.ErrPermission):
		return &hinted{fmt.Errorf("the store %s is another user's", dir), "ask him to let a daemon run: kmsfs serve", exitFailed}
	case err != nil:
		return err
	}
	if !st.Mode().IsRegular() {
		return fmt.Errorf("%w: %s: %s is no plain file", rootkey.ErrNoStore, dir, headerFile)
	}
	top, err := os.Stat(dir)
	if err != nil {
		return err
	}
	for _, part := range []os.FileInfo{top, st} {
		owner, err := ownerOf(part)
		if err != nil {
			return err
		}
		if int(owner) != os.Geteuid() {
			return &hinted{
				fmt.Errorf("the store %s belongs to uid %d, and no daemon serves it", dir, owner),
				fmt.Sprintf("run the command as uid %d, or let that user run: kmsfs serve", owner), exitFailed,
			}
		}
	}
	return nil
}

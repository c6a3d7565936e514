package control

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"syscall"
)

// Dial connects to the daemon at the socket path. ErrNoDaemon if nobody
// listens there; a directory that the caller may not enter is an ordinary
// permission error.
func Dial(ctx context.Context, path string) (*Client, error) {
	addr, done, err := shortAddress(path)
	if err == nil {
		defer done()
		var d net.Dialer
		var conn net.Conn
		if conn, err = d.DialContext(ctx, "unix", addr.Name); err == nil {
			return &Client{conn: conn}, nil
		}
	}
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ECONNREFUSED) {
		return nil, fmt.Errorf("%w at %s", ErrNoDaemon, path)
	}
	return nil, fmt.Errorf("connect to the daemon: %w", err)
}

// Client is a connection for one call.
type Client struct{ conn net.Conn }

// Close hangs up; a running call is cancelled.
func (c *Client) Close() error { return c.conn.Close() }

// Call sends req and waits for the answer, giving each item of a stream to
// onItem. It hangs up when ctx ends or onItem fails. An error that the daemon
// answered is an *Error; ErrNotTaken means that it never read the request;
// ErrHungUp that it went away without answering and did perhaps nothing,
// perhaps everything.
func (c *Client) Call(ctx context.Context, req Request, onItem func(json.RawMessage) error) (json.RawMessage, error) {
	defer func() { _ = c.conn.Close() }()
	stop := context.AfterFunc(ctx, func() { _ = c.conn.Close() })
	defer stop()
	req.Version = ProtocolVersion
	_ = c.conn.SetWriteDeadline(deadline(writeTimeout))
	// A server at its limit hangs up unread. A peer that closes with unread data
	// resets the connection, so a reset tells that the request had no reader.
	werr := writeFrame(c.conn, req, MaxRequest)
	if errors.Is(werr, ErrTooLarge) {
		return nil, fmt.Errorf("send the command: %w", werr)
	}
	for {
		var a answer
		if err := readFrame(c.conn, &a, MaxResponse); err != nil {
			switch {
			case ctx.Err() != nil:
				return nil, ctx.Err()
			case werr != nil || errors.Is(err, syscall.ECONNRESET):
				return nil, ErrNotTaken
			case errors.Is(err, io.EOF):
				return nil, ErrHungUp
			}
			return nil, fmt.Errorf("read the daemon's answer: %w", err)
		}
		if a.Item == nil {
			if a.Error != nil {
				return nil, a.Error
			}
			return a.Result, nil
		}
		if onItem == nil {
			continue
		}
		if err := onItem(a.Item); err != nil {
			return nil, err
		}
	}
}

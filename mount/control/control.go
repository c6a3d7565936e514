// Package control is the conversation between the kmsfs command line and the
// daemon: framed JSON over a Unix socket.
//
// A connection carries one call. The client sends one frame, a Request; the
// server answers with any number of item frames (streaming commands) and one
// last frame, a Response, and closes. A frame is a 32-bit big-endian length
// and that many bytes of JSON:
//
//	client  00 00 00 2b {"version":1,"command":"status","args":null}
//	server  00 00 00 .. {"item":{…}}            (zero or more)
//	server  00 00 00 .. {"result":{…}}          (or {"error":{…}})
//
// Who calls is what the kernel says (SO_PEERCRED), never what the message
// says. A caller who hangs up cancels his call's context. Requests, frames,
// waiting times and the number of connections a uid may hold are bounded, so
// that one user's mistakes stay his own.
//
// What it is not: it knows no command, decides no right and never retries.
package control

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"
)

// ProtocolVersion is sent with every request; a server refuses any other.
const ProtocolVersion = 1

// Limits of the protocol.
const (
	MaxRequest  = 4 << 20  // bytes of a request frame
	MaxResponse = 16 << 20 // bytes of an item or response frame

	readTimeout  = 10 * time.Second // for a whole request to arrive
	writeTimeout = 30 * time.Second // for a frame to be taken by the client
	maxPerUser   = 64               // connections of one uid at a time
	maxLarge     = 4                // requests of more than largeRequest bytes, of one uid at a time
	largeRequest = 64 << 10
)

// Request is one call.
type Request struct {
	Version int             `json:"version"`
	Command string          `json:"command"`
	As      string          `json:"as,omitempty"` // principal to act as; "" = the one bound to the caller
	Args    json.RawMessage `json:"args,omitempty"`
}

// Response ends a call: a result or an error.
type Response struct {
	Result json.RawMessage `json:"result,omitempty"`
	Error  *Error          `json:"error,omitempty"`
}

// Error is a failure as the user shall see it. Code is a stable word (AWS's
// where there is one), Exit the exit status of the command line.
type Error struct {
	Code    string `json:"code"`
	Message string `json:"message"`
	Hint    string `json:"hint,omitempty"`
	Exit    int    `json:"exit"`
}

// Error is the message alone.
func (e *Error) Error() string { return e.Message }

// Peer is who calls, as the kernel tells.
type Peer struct {
	UID, GID uint32
	PID      int32
}

// Emit sends one item of a streaming answer. It fails when the caller is gone.
type Emit func(item any) error

// Errors of the conversation itself.
var (
	ErrTooLarge = errors.New("message too large")
	errBusy     = errors.New("too many large commands at once")
	ErrProtocol = errors.New("malformed message")
	ErrNoDaemon = errors.New("no daemon answers")       // nobody listens
	ErrNotTaken = errors.New("the daemon took no call") // it is closing or full: the call had no effect
	ErrHungUp   = errors.New("the daemon hung up")      // it went away before it answered
	ErrClosed   = errors.New("the server is closed")    // Serve after Close
)

// Result makes a Response of any value.
func Result(v any) Response {
	if v == nil {
		return Response{}
	}
	b, err := json.Marshal(v)
	if err != nil {
		return Response{Error: &Error{Code: "InternalFailure", Message: "encode the result: " + err.Error(), Exit: 1}}
	}
	return Response{Result: b}
}

// answer is any frame of the server.
type answer struct {
	Item   json.RawMessage `json:"item,omitempty"`
	Result json.RawMessage `json:"result,omitempty"`
	Error  *Error          `json:"error,omitempty"`
}

// writeFrame sends v as one frame of at most limit bytes.
func writeFrame(w io.Writer, v any, limit int) error {
	body, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("encode a message: %w", err)
	}
	if len(body) > limit {
		return fmt.Errorf("%w: %d bytes are more than %d", ErrTooLarge, len(body), limit)
	}
	frame := make([]byte, 4, 4+len(body))
	binary.BigEndian.PutUint32(frame, uint32(len(body)))
	if _, err := w.Write(append(frame, body...)); err != nil {
		return fmt.Errorf("send a message: %w", err)
	}
	return nil
}

// readFrame receives one frame into v. It allocates no more than has arrived.
// io.EOF if the other side closed between frames.
func readFrame(r io.Reader, v any, limit int) error {
	return readFrameIf(r, v, limit, nil)
}

// readFrameIf is readFrame, but for a frame that room refuses.
func readFrameIf(r io.Reader, v any, limit int, room func(size int64) error) error {
	var head [4]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		if errors.Is(err, io.ErrUnexpectedEOF) {
			return fmt.Errorf("%w: cut short", ErrProtocol)
		}
		return err
	}
	n := int64(binary.BigEndian.Uint32(head[:]))
	if n > int64(limit) {
		return fmt.Errorf("%w: %d bytes are more than %d", ErrTooLarge, n, limit)
	}
	if room != nil {
		if err := room(n); err != nil {
			return err
		}
	}
	body, err := io.ReadAll(io.LimitReader(r, n))
	if err != nil {
		return err
	}
	if int64(len(body)) < n {
		return fmt.Errorf("%w: cut short", ErrProtocol)
	}
	if err := json.Unmarshal(body, v); err != nil {
		return fmt.Errorf("%w: %w", ErrProtocol, err)
	}
	return nil
}

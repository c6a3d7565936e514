package kmsapi

import (
	"net"
	"sync"
)

// limited accepts at most so many connections at a time. Nobody has to show who he is to connect, and who says his request one byte at a
// time is hung up on only after a while; so that they are no others' lack, the next connection takes the place of one that shows nothing: of
// the one that has been there for the longest without a call with a valid signature, or else since its last one. Only if all are
// being answered does it wait.
type limited struct {
	net.Listener
	most int

	// mu guards what follows, and the connections' fields.
	mu     sync.Mutex
	room   sync.Cond // somebody has left or was answered
	conns  map[*limitedConn]struct{}
	turn   uint64 // grows with every connection and every answer
	closed bool
}

func newLimited(ln net.Listener) *limited {
	l := &limited{Listener: ln, most: maxConnections, conns: map[*limitedConn]struct{}{}}
	l.room.L = &l.mu
	return l
}

// limitedConn is one of them.
type limitedConn struct {
	net.Conn
	of    *limited
	since uint64 // the turn when it came, or when it was last answered
	shown bool   // it has had a call with a valid signature
	busy  bool   // and has one now
}

type connKey struct{}

// Accept implements net.Listener.
func (l *limited) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	mine := &limitedConn{Conn: c, of: l}
	l.mu.Lock()
	defer l.mu.Unlock()
	for len(l.conns) >= l.most && !l.closed {
		if v := l.leastUse(); v != nil {
			delete(l.conns, v)
			go func() { _ = v.Conn.Close() }()
		} else {
			l.room.Wait()
		}
	}
	if l.closed {
		_ = c.Close()
		return nil, net.ErrClosed
	}
	l.turn++
	mine.since = l.turn
	l.conns[mine] = struct{}{}
	return mine, nil
}

// leastUse is who has to leave; nil if all are being answered. l.mu is held.
func (l *limited) leastUse() (least *limitedConn) {
	for c := range l.conns {
		switch {
		case c.busy:
		case least == nil, least.shown && !c.shown, least.shown == c.shown && c.since < least.since:
			least = c
		}
	}
	return least
}

// Close implements net.Listener.
func (l *limited) Close() error {
	l.mu.Lock()
	l.closed = true
	l.room.Broadcast()
	l.mu.Unlock()
	return l.Listener.Close()
}

// Close implements net.Conn.
func (c *limitedConn) Close() error {
	err := c.Conn.Close()
	c.of.mu.Lock()
	defer c.of.mu.Unlock()
	delete(c.of.conns, c)
	c.of.room.Signal()
	return err
}

// known notes that a call has a valid signature.
func (c *limitedConn) known() {
	c.of.mu.Lock()
	defer c.of.mu.Unlock()
	c.shown, c.busy = true, true
}

// answered notes the end of a call.
func (c *limitedConn) answered() {
	c.of.mu.Lock()
	defer c.of.mu.Unlock()
	c.busy = false
	c.of.turn++
	c.since = c.of.turn
	c.of.room.Signal()
}

// shared accepts at most maxPerUser connections of one uid at a time, so that one user's connections are no other's lack.
type shared struct {
	net.Listener
	mu      sync.Mutex
	perUser map[uint32]int
}

func (l *shared) Accept() (net.Conn, error) {
	for {
		c, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		p, err := peerOf(c)
		if err != nil || !l.enter(p.uid) {
			_ = c.Close()
			continue
		}
		return &sharedConn{Conn: c, leave: func() { l.exit(p.uid) }}, nil
	}
}

func (l *shared) enter(uid uint32) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.perUser[uid] >= maxPerUser {
		return false
	}
	l.perUser[uid]++
	return true
}

func (l *shared) exit(uid uint32) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.perUser[uid]--; l.perUser[uid] == 0 {
		delete(l.perUser, uid)
	}
}

// sharedConn tells when it is closed.
type sharedConn struct {
	net.Conn
	once  sync.Once
	leave func()
}

// Close implements net.Conn.
func (c *sharedConn) Close() error {
	err := c.Conn.Close()
	c.once.Do(c.leave)
	return err
}

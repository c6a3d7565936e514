package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/kmsfs/kmsfs/crypto"
	"github.com/kmsfs/kmsfs/keystore/rootkey"
	"github.com/kmsfs/kmsfs/mount/control"
	"github.com/kmsfs/kmsfs/mount/fusefs"
	"github.com/kmsfs/kmsfs/mount/host"
)

const (
	shutdownPatience = 60 * time.Second
	maxLogSize       = 16 << 20 // bytes of daemon.log that a start keeps in place
	codeServed       = "StoreServed"
)

// daemonOptions say how a daemon lives.
type daemonOptions struct {
	persistent bool
	log        io.Writer
	ready      func(error)              // told once, when calls are taken or the start has failed
	unlock     *rootkey.Unlocker        // nil: from the command line
	then       func(*host.Daemon) error // done first, in this process; its error ends the daemon
}

func isHeld(err error) bool { return errors.Is(err, host.ErrBusy) || errors.Is(err, host.ErrServed) }

// The collector runs when the heap has grown by gcPercent of what is alive, or reaches gcFrom: what is alive is little as a rule, and each
// operation leaves garbage. The environment's GOGC and GOMEMLIMIT come first.
const (
	gcPercent = 300
	gcFrom    = 400 << 20
)

// morePlaces is for goroutines that are in a system call: each keeps one of the runtime's places (GOMAXPROCS) until the runtime's monitor
// sees it, and then, when it comes back, waits until one is free.
const morePlaces = 2

func tuneRuntime() {
	if os.Getenv("GOMAXPROCS") == "" {
		runtime.GOMAXPROCS(runtime.GOMAXPROCS(0) + morePlaces)
	}
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(gcPercent)
	}
	if os.Getenv("GOMEMLIMIT") == "" {
		debug.SetMemoryLimit(gcFrom)
	}
}

// runDaemon is the daemon's life in this process, from lock to lock.
func runDaemon(c *cli.Context, dir string, o daemonOptions) (err error) {
	told := false
	tell := func(err error) {
		if o.ready != nil && !told {
			o.ready(err)
		}
		told = true
	}
	defer func() { tell(err) }()
	if err := overwriteFreed(c); err != nil {
		return err
	}
	if err := host.Harden(); err != nil {
		return err
	}
	tuneRuntime()
	level := slog.LevelInfo
	if c.Bool("debug") {
		level = slog.LevelDebug
	}
	log := slog.New(slog.NewTextHandler(o.log, &slog.HandlerOptions{Level: level}))
	lock, err := daemonLock(c, dir)
	if err != nil {
		return err
	}
	defer lock.Release()
	unlock := unlocker(c)
	if o.unlock != nil {
		unlock = *o.unlock
	}
	options := openOptions{Unlock: unlock, Log: log, AuditStrict: c.Bool("audit-strict")}
	if between, ok := c.App.Metadata[metaBetween].(func(*openOptions)); ok {
		between(&options)
	}
	s, err := openStore(dir, options)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.Close()) }()

	ended, err := host.EndDead(c.Context, s.info.StoreID)
	if err != nil {
		log.Warn("end dead mounts", "err", err)
	}
	for _, m := range ended {
		log.Info("ended a dead mount", "dir", m)
	}
	var awake *fusefs.Awake
	var awakeFile *os.File
	if !c.Bool(noSpin) {
		if awake, awakeFile, err = fusefs.NewAwake(); err != nil {
			return err
		}
	}
	kernel, farewell, err := startSupervisor(dir, s.info.StoreID, awakeFile)
	if err != nil {
		return err
	}
	defer farewell()
	d, err := s.Host(kernel, o.persistent, func(o *fusefs.Options) { o.Awake, o.NoSpin = awake, c.Bool(noSpin) })
	if err != nil {
		return err
	}
	endKMS, err := startKMS(c, dir, s, d, log)
	if err != nil {
		return err
	}
	defer endKMS()
	socket := filepath.Join(dir, host.SocketFile)
	ln, err := control.Listen(socket)
	if err != nil {
		return err
	}
	if err := confine(c, s, log); err != nil {
		return errors.Join(err, ln.Close())
	}
	return serveCalls(c.Context, socket, ln, d, log, o.then, tell)
}

// The runtime's settings of a daemon, for what is in plaintext in its memory:
//
//   - clobberfree: the garbage collector overwrites what it frees, plaintext
//     and what the standard library makes of keys.
//   - asyncpreemptoff: goroutines are not interrupted by signals. The kernel
//     leaves the vector registers in the frame of a signal, 512 bytes and more of
//     whatever was being copied, enciphered or used as a round key just then,
//     in a place that nothing overwrites before the thread's next signal. The
//     price is that a loop without a call in it delays the collector.
var lessInMemory = []string{"clobberfree=1", "asyncpreemptoff=1"}

// overwriteFreed starts this program anew in this very process if it runs
// without those settings, which are read at a program's start and never again.
func overwriteFreed(c *cli.Context) error {
	if c.App.Metadata[isProgram] == nil || isSet(os.Getenv("GODEBUG")) {
		return nil
	}
	exe, err := os.Executable()
	if err != nil {
		exe = "/proc/self/exe"
	}
	return fmt.Errorf("start anew: %w", syscall.Exec(exe, os.Args, withSettings()))
}

// isSet reports whether a value of GODEBUG says all of lessInMemory last.
func isSet(godebug string) bool {
	last := map[string]string{}
	for s := range strings.SplitSeq(godebug, ",") {
		name, _, _ := strings.Cut(s, "=")
		last[name] = s
	}
	for _, want := range lessInMemory {
		name, _, _ := strings.Cut(want, "=")
		if last[name] != want {
			return false
		}
	}
	return true
}

// withSettings is an environment like this process's, with the settings.
func withSettings() []string {
	const name = "GODEBUG="
	set := strings.Join(lessInMemory, ",")
	if old := os.Getenv("GODEBUG"); old != "" {
		set = old + "," + set // of these the last one counts, of two variables the first
	}
	others := slices.DeleteFunc(os.Environ(), func(v string) bool { return strings.HasPrefix(v, name) })
	return append(others, name+set)
}

// confine gives up what serving does not take. From here on nothing outside
// the store can be opened, and no program started.
func confine(c *cli.Context, s *store, log *slog.Logger) error {
	if c.Bool("no-sandbox") {
		log.Warn("not confined: --no-sandbox was given")
		return nil
	}
	is, err := host.Confine(s.dir)
	if err != nil {
		return &hinted{err, "--no-sandbox serves without it", exitFailed}
	}
	host.LogConfinement(log, is)
	if !crypto.LockedMemory() {
		log.Warn("the memory of keys is not locked: it may be swapped out (see RLIMIT_MEMLOCK, ulimit -l)")
	}
	return nil
}

// serveCalls takes calls until the daemon has no reason to go on, then leaves
// in order: no new calls, mounts away, what runs ended.
func serveCalls(ctx context.Context, socket string, ln *net.UnixListener, d *host.Daemon, log *slog.Logger, then func(*host.Daemon) error, ready func(error)) error {
	var err error
	server := control.NewServer(d.Dispatch, log)
	calls, endCalls := context.WithCancel(context.WithoutCancel(ctx))
	defer endCalls()
	failed := make(chan error, 1)
	go func() { failed <- server.Serve(calls, ln) }()
	log.Info("serving", "store", filepath.Dir(socket), "pid", os.Getpid())
	ready(nil)
	if then != nil {
		err = then(d)
	}
	if err == nil {
		select {
		case <-ctx.Done():
			log.Info("ending on a signal")
		case <-d.Done():
		case err = <-failed:
		}
	}
	_ = os.Remove(socket)
	server.Close()
	patience, cancel := context.WithTimeout(context.WithoutCancel(ctx), shutdownPatience)
	defer cancel()
	err = errors.Join(err, d.Shutdown(patience))
	endCalls()
	server.Wait()
	log.Info("ended")
	return err
}

// daemonLock takes the store for a daemon. A short command is waited for, as
// is a daemon that is just leaving; one that answers is an error.
func daemonLock(c *cli.Context, dir string) (lock *host.Lock, err error) {
	err = await(c, func() (bool, error) {
		lock, err = host.TryLock(dir, "daemon")
		if isHeld(err) {
			return answers(c, dir), err
		}
		return true, err
	})
	return lock, err
}

// readiness is the one message of a starting daemon to who started it.
type readiness struct {
	OK    bool           `json:"ok"`
	Error *control.Error `json:"error,omitempty"`
}

// serveChild is the daemon in the background, started by spawn.
func serveChild(c *cli.Context, dir string) error {
	pipe := os.NewFile(uintptr(c.Int("ready-fd")), "ready")
	o := daemonOptions{persistent: !c.Bool("until-unused"), log: os.Stderr}
	o.ready = func(err error) {
		r := readiness{OK: err == nil}
		if err != nil {
			hint, code := advice(err)
			r.Error = &control.Error{Message: err.Error(), Hint: hint, Exit: code}
			if errors.Is(err, host.ErrServed) {
				r.Error.Code = codeServed
			}
		}
		_ = json.NewEncoder(pipe).Encode(r)
		_ = pipe.Close()
	}
	u := rootkey.Unlocker{CredentialDir: os.Getenv("CREDENTIALS_DIRECTORY")}
	if fd := c.Int("passphrase-fd"); fd > 0 {
		phrase, err := io.ReadAll(io.LimitReader(os.NewFile(uintptr(fd), "passphrase"), rootkey.MaxPassphrase+1))
		if err != nil {
			o.ready(err)
			return err
		}
		u.Passphrase = func() ([]byte, error) { return phrase, nil }
	}
	o.unlock = &u
	return runDaemon(c, dir, o)
}

// spawn starts a daemon in the background and returns when it takes calls, or
// with the reason why it does not. It outlives this process and its terminal.
func spawn(c *cli.Context, dir string, persistent bool) error {
	log, err := openLog(dir)
	if err != nil {
		return err
	}
	defer func() { _ = log.Close() }()
	ready, readyChild, err := os.Pipe()
	if err != nil {
		return fmt.Errorf("start the daemon: %w", err)
	}
	defer func() { _ = ready.Close() }()
	args := []string{"--store", dir, "serve", "--foreground", "--ready-fd", "3"}
	if !persistent {
		args = append(args, "--until-unused")
	}
	args = append(args, kmsArgs(c)...)
	for _, name := range []string{"debug", "audit-strict", "no-sandbox", noSpin} {
		if c.Bool(name) {
			args = append(args, "--"+name)
		}
	}
	files := []*os.File{readyChild}
	phrase, err := passphraseFor(c, dir)
	if err != nil {
		_ = readyChild.Close()
		return err
	}
	if phrase != nil {
		defer clear(phrase)
		r, err := filledPipe(phrase)
		if err != nil {
			_ = readyChild.Close()
			return fmt.Errorf("start the daemon: %w", err)
		}
		files = append(files, r)
		args = append(args, "--passphrase-fd", strconv.Itoa(2+len(files)))
	}
	cmd := exec.Command("/proc/self/exe", args...) //nolint:noctx // it outlives this process
	cmd.Args[0] = "kmsfs"
	cmd.Dir, cmd.Env, cmd.Stdout, cmd.Stderr = "/", withSettings(), log, log
	cmd.ExtraFiles = files
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	err = cmd.Start()
	for _, f := range files {
		_ = f.Close()
	}
	if err != nil {
		return fmt.Errorf("start the daemon: %w", err)
	}
	defer func() { _ = cmd.Process.Release() }()
	return awaitReady(c, ready)
}

func awaitReady(c *cli.Context, ready *os.File) error {
	stop := context.AfterFunc(c.Context, func() { _ = ready.SetReadDeadline(time.Now()) })
	defer stop()
	_ = ready.SetReadDeadline(time.Now().Add(daemonStart))
	var r readiness
	err := json.NewDecoder(io.LimitReader(ready, 1<<20)).Decode(&r)
	switch {
	case err == nil && r.OK:
		return nil
	case err == nil && r.Error != nil:
		return r.Error
	case c.Err() != nil:
		return c.Err()
	case errors.Is(err, os.ErrDeadlineExceeded):
		err = errors.New("the daemon is not ready yet")
	default:
		err = errors.New("the daemon ended before it was ready")
	}
	return &hinted{err, "look at daemon.log in the store", exitFailed}
}

// passphraseFor asks for the passphrase here, where the terminal is, if the
// daemon will need it. nil: it will not, or it shall say itself what is missing.
func passphraseFor(c *cli.Context, dir string) ([]byte, error) {
	u := unlocker(c)
	need, err := rootkey.NeedsPassphrase(dir, u)
	if err != nil || !need || u.Passphrase == nil {
		return nil, err
	}
	return u.Passphrase()
}

// filledPipe is the reading end of a pipe that holds b and then ends.
func filledPipe(b []byte) (*os.File, error) {
	r, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	_, err = w.Write(b) // at most MaxPassphrase bytes: a pipe holds more
	_ = w.Close()
	if err != nil {
		_ = r.Close()
		return nil, err
	}
	return r, nil
}

// openLog opens daemon.log for appending; a long one makes room first.
func openLog(dir string) (*os.File, error) {
	path := filepath.Join(dir, host.LogFile)
	if st, err := os.Stat(path); err == nil && st.Size() > maxLogSize {
		_ = os.Rename(path, path+".old")
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_APPEND|syscall.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open the daemon's log: %w", err)
	}
	return f, nil
}

// startSupervisor starts the child that mounts for the daemon, and cleans up
// after a killed one. It returns how to ask it and how to part from it.
func startSupervisor(dir, storeID string, awake *os.File) (kernel host.Kernel, farewell func(), err error) {
	if awake != nil {
		defer func() { _ = awake.Close() }()
	}
	r, w, err := os.Pipe()
	if err != nil {
		return nil, nil, fmt.Errorf("start the supervisor: %w", err)
	}
	defer func() { _ = r.Close() }()
	deputy, theirs, err := host.DeputyPair()
	if err != nil {
		_ = w.Close()
		return nil, nil, err
	}
	defer func() { _ = theirs.Close() }()
	parted, parting, err := os.Pipe()
	if err != nil {
		_ = w.Close()
		return nil, nil, errors.Join(fmt.Errorf("start the supervisor: %w", err), deputy.Close())
	}
	defer func() { _ = parting.Close() }()
	args := []string{"--store", dir, "supervise", "--daemon", strconv.Itoa(os.Getpid())}
	files := []*os.File{theirs, parting} // 3, 4
	if awake != nil {
		files = append(files, awake) // 5
		args = append(args, "--awake")
	}
	cmd := exec.Command("/proc/self/exe", append(args, storeID)...) //nolint:noctx // it outlives this process
	cmd.Args[0], cmd.Dir, cmd.Stdin, cmd.Stderr = "kmsfs", "/", r, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	cmd.ExtraFiles = files
	if err := cmd.Start(); err != nil {
		_, _ = w.Close(), parted.Close()
		return nil, nil, errors.Join(fmt.Errorf("start the supervisor: %w", err), deputy.Close())
	}
	go func() { _ = cmd.Wait() }()
	return deputy, func() { // it stays until this process has ended
		_ = deputy.Close()
		host.Goodbye(w, parted)
	}, nil
}

// ignoreSignals keeps the supervisor alive through what ends its daemon.
func ignoreSignals() context.Context {
	signal.Ignore(os.Interrupt, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGQUIT)
	return context.Background()
}

// commandLog is where a command without a daemon logs: where the daemon would.
// What concerns its user is in the error that it returns.
func commandLog(dir string) (*slog.Logger, io.Closer, error) {
	f, err := openLog(dir)
	if err != nil {
		return nil, nil, err
	}
	return slog.New(slog.NewTextHandler(f, &slog.HandlerOptions{Level: slog.LevelWarn})), f, nil
}

func joined(list []string) string { return strings.Join(list, ",") }

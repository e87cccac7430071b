// Package initlink is what PID 1 of a kit's card and the daemon say to each other: the daemon beats, tells how far the
// boot has come, and asks for reboots; PID 1 tells what it found while it booted. It is one socket pair that carries one
// JSON object per packet, which the daemon inherits.
//
// It decides nothing: when a watchdog is fed and what a reboot takes is for firmware/boot. A daemon that was not started
// by PID 1 has no Link, and all methods of a nil *Link may be called: they do nothing.
//
// A Link may be used by any number of goroutines. No call blocks for longer than a second.
package initlink

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"strconv"
	"sync"
	"time"
)

// Env names the variable of the environment that holds the number of the file descriptor of a Link.
const Env = "FIELDKIT_INIT"

// Bounds of what is said.
const (
	MaxPacket = 64 << 10 // bytes of one packet; a Boot with all that these bounds allow fits, however JSON writes it
	MaxStages = 32       // of a timeline; further ones are dropped
	MaxName   = 64       // bytes of the name of a stage
	MaxNotes  = 16       // of PID 1
	MaxText   = 256      // bytes of the text of a note; longer ones are cut

	helloWait = 5 * time.Second
	sendWait  = time.Second
)

// ErrNoInit is a request that needs a PID 1 of this project where there is none.
var ErrNoInit = errors.New("not started by the kit's own init")

// Kind is what comes after the daemon ended.
type Kind string

// Kinds of a reboot.
const (
	Normal   Kind = "normal"   // the slot that autoboot.txt names
	TryBoot  Kind = "tryboot"  // the other slot, once
	PowerOff Kind = "poweroff" // nothing
)

// Stage is a point that a boot came to.
type Stage struct {
	Name string `json:"stage"`
	At   int64  `json:"at_ms"` // milliseconds since the kernel started
}

// Note is something that PID 1 has to say about the card or the board, for the health tree.
type Note struct {
	About string `json:"about"`           // one of the names below
	Fault bool   `json:"fault,omitempty"` // something does not work; otherwise it works, but somebody should know
	Text  string `json:"text"`
}

// What a Note is about.
const (
	AboutState    = "state"   // where what survives a restart is kept
	AboutMission  = "mission" // the operator's files and the personalisation
	AboutWatchdog = "watchdog"
	AboutModules  = "modules"
	AboutDaemon   = "daemon" // it was started again
)

// Boot is what PID 1 knows when it starts the daemon.
type Boot struct {
	Trial  bool    `json:"trial"`          // the slot is tried once: it is left for the other one unless Committed is called
	Disk   string  `json:"disk,omitempty"` // block device of the card, such as /dev/mmcblk0; "" when none was found
	Stages []Stage `json:"stages"`
	Notes  []Note  `json:"notes,omitempty"`
	// NewBoard is a card that was first started in another board: either it was moved, or it is a copy.
	NewBoard bool   `json:"new_board,omitempty"`
	Serial   string `json:"serial,omitempty"` // of the board
}

// Request is what the daemon says, one of the fields.
type Request struct {
	Beat      *bool  `json:"beat,omitempty"` // whether the daemon's parts answer
	Mark      *Stage `json:"mark,omitempty"`
	Committed bool   `json:"committed,omitempty"`
	Reboot    Kind   `json:"reboot,omitempty"`
	Lights    bool   `json:"lights,omitempty"` // the daemon wants the lines of the LEDs
}

// Reply is what PID 1 says: Boot once, then an answer to Request.Lights.
type Reply struct {
	Boot   *Boot `json:"boot,omitempty"`
	Lights bool  `json:"lights,omitempty"` // the lines are free
}

// Link is the daemon's end. A nil one belongs to a daemon that PID 1 did not start.
type Link struct {
	conn net.Conn
	now  func() time.Duration // since the kernel started

	mu   sync.Mutex // guards boot.Stages and pairs a request with its reply
	boot Boot
}

// FromEnv returns the Link that this process inherited, nil where it did not. Call it once, and before other processes
// are started: they do not get it.
func FromEnv() (*Link, error) {
	v, ok := os.LookupEnv(Env)
	if !ok {
		return nil, nil
	}
	if err := os.Unsetenv(Env); err != nil {
		return nil, fmt.Errorf("link to init: %w", err)
	}
	n, err := strconv.ParseUint(v, 10, 16)
	if err != nil {
		return nil, fmt.Errorf("link to init: %s: %w", Env, err)
	}
	f := os.NewFile(uintptr(n), "init")
	conn, err := net.FileConn(f) // a copy, closed on exec
	_ = f.Close()
	if err != nil {
		return nil, fmt.Errorf("link to init: %w", err)
	}
	return New(conn, SinceKernel)
}

// New makes a Link of its end of a connection that keeps packets apart, and waits for what PID 1 says first. now is the
// time since the kernel started.
func New(conn net.Conn, now func() time.Duration) (*Link, error) {
	l := &Link{conn: conn, now: now}
	r, err := l.receive(helloWait)
	if err == nil && r.Boot == nil {
		err = errors.New("it does not say how it booted")
	}
	if err != nil {
		_ = conn.Close()
		return nil, fmt.Errorf("link to init: %w", err)
	}
	l.boot = *r.Boot
	return l, nil
}

// Close ends the Link. PID 1 takes it as the end of the daemon's beats.
func (l *Link) Close() error {
	if l == nil {
		return nil
	}
	return l.conn.Close()
}

// Boot is what PID 1 said, with the stages of the daemon after its own.
func (l *Link) Boot() Boot {
	if l == nil {
		return Boot{}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	b := l.boot
	b.Stages, b.Notes = slices.Clone(b.Stages), slices.Clone(b.Notes)
	return b
}

// Trial reports whether this boot tries a new slot once.
func (l *Link) Trial() bool { return l != nil && l.boot.Trial }

// Timeline lists the stages of the boot in the order in which they were reached.
func (l *Link) Timeline() []Stage { return l.Boot().Stages }

// Beat says that the daemon lives, and whether its parts answer. PID 1 wants to hear that they do every few seconds. A
// beat that PID 1 does not take is lost: a PID 1 that hangs is for the watchdog.
func (l *Link) Beat(healthy bool) {
	if l != nil {
		_ = l.send(Request{Beat: &healthy})
	}
}

// Mark notes that the boot came to a stage, now. Only the first time counts.
func (l *Link) Mark(stage string) {
	if l == nil || stage == "" || len(stage) > MaxName {
		return
	}
	s := Stage{Name: stage, At: l.now().Milliseconds()}
	l.mu.Lock()
	known := len(l.boot.Stages) >= MaxStages || slices.ContainsFunc(l.boot.Stages, func(o Stage) bool { return o.Name == stage })
	if !known {
		l.boot.Stages = append(l.boot.Stages, s)
	}
	l.mu.Unlock()
	if !known {
		_ = l.send(Request{Mark: &s})
	}
}

// Committed says that the slot of this boot is the one to start from now on. Without it PID 1 leaves a slot on trial.
func (l *Link) Committed() error {
	if l == nil {
		return nil
	}
	return l.send(Request{Committed: true})
}

// Reboot asks PID 1 to end the daemon, put the state in order and reboot. The daemon gets SIGTERM soon afterwards.
// ErrNoInit without a Link.
func (l *Link) Reboot(k Kind) error {
	if l == nil {
		return ErrNoInit
	}
	return l.send(Request{Reboot: k})
}

// TakeLights has PID 1 let go of the lines of the LEDs, which it holds since before the daemon started.
func (l *Link) TakeLights() error {
	if l == nil {
		return nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.send(Request{Lights: true}); err != nil {
		return err
	}
	r, err := l.receive(sendWait)
	if err == nil && !r.Lights {
		err = errors.New("another reply")
	}
	if err != nil {
		return fmt.Errorf("LEDs of init: %w", err)
	}
	return nil
}

func (l *Link) send(r Request) error {
	b, err := json.Marshal(r)
	if err != nil {
		return fmt.Errorf("request to init: %w", err)
	}
	if err := l.conn.SetWriteDeadline(time.Now().Add(sendWait)); err != nil {
		return fmt.Errorf("request to init: %w", err)
	}
	if _, err := l.conn.Write(b); err != nil {
		return fmt.Errorf("request to init: %w", err)
	}
	return nil
}

func (l *Link) receive(wait time.Duration) (Reply, error) {
	b := make([]byte, MaxPacket)
	if err := l.conn.SetReadDeadline(time.Now().Add(wait)); err != nil {
		return Reply{}, err
	}
	n, err := l.conn.Read(b)
	if err != nil {
		return Reply{}, err
	}
	var r Reply
	if err := json.Unmarshal(b[:n], &r); err != nil {
		return Reply{}, fmt.Errorf("reply of init: %w", err)
	}
	return r, nil
}

package phone

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"
)

// Command is one line of Main's input.
//
//	{"cmd":"call","target":"10102"}   place a call
//	{"cmd":"hangup","call":1}         end a call; without "call" all of them
//	{"cmd":"media"}                   measurements of the calls that are up, now
//	{"cmd":"quit"}                    hang up, take the registration back, end
type Command struct {
	Cmd    string `json:"cmd"`
	Target string `json:"target,omitempty"`
	Call   int    `json:"call,omitempty"`
}

// Event is one line of Main's output. Calls are numbered from 1.
//
//	{"event":"registered"} {"event":"unregistered","error":…}
//	{"event":"calling","call":1,"peer":…} {"event":"incoming","call":1,"peer":…}
//	{"event":"ringing","call":1} {"event":"answered","call":1,"setup_ms":12.3}
//	{"event":"media","call":1,"media":{…}}     every second, and once before ended
//	{"event":"ended","call":1} with "status" and "error" when it was refused or failed
//	{"event":"error","error":…}                a command that could not be carried out
type Event struct {
	Event   string       `json:"event"`
	Call    int          `json:"call,omitempty"`
	Peer    string       `json:"peer,omitempty"`
	SetupMS float64      `json:"setup_ms,omitempty"` // at the caller
	Media   *MediaReport `json:"media,omitempty"`
	Status  int          `json:"status,omitempty"` // SIP status of a refusal
	Error   string       `json:"error,omitempty"`
}

// MediaReport is Stats as Main prints it.
type MediaReport struct {
	Sent     uint64  `json:"sent"`
	Received uint64  `json:"received"`
	Lost     uint64  `json:"lost"`
	Strays   uint64  `json:"strays,omitempty"`
	JitterMS float64 `json:"jitter_ms"`
	RTTMS    float64 `json:"rtt_ms,omitempty"`
	FarLost  uint64  `json:"far_lost"`
	Reports  uint64  `json:"reports"`
	ToneOK   bool    `json:"tone_ok"`
}

func reportOf(s Stats) *MediaReport {
	return &MediaReport{
		Sent: s.Sent, Received: s.Received, Lost: s.Lost, Strays: s.Strays, JitterMS: s.JitterMS, RTTMS: s.RTTMS,
		FarLost: s.FarLost, Reports: s.Reports, ToneOK: s.ToneOK,
	}
}

// mediaEvery is how often the measurements of a call are printed.
const mediaEvery = time.Second

// maxCommand bounds a line of input.
const maxCommand = 4 << 10

// Main runs one phone by commands, a JSON object a line, and prints events the
// same way. Commands are carried out once it has tried to register. It ends with quit, with the end of the input, or with ctx, after
// goodbye to the server. A read of stdin that never returns outlives it.
func Main(ctx context.Context, stdin io.Reader, stdout io.Writer, cfg Config) error {
	p, err := New(cfg)
	if err != nil {
		return err
	}
	ctx, quit := context.WithCancel(ctx)
	defer quit()
	m := &console{phone: p, out: json.NewEncoder(stdout), calls: make(map[int]*Call)}
	commands := make(chan Command)
	go func() { // not waited for: a terminal's read cannot be ended
		defer close(commands)
		lines := bufio.NewScanner(stdin)
		lines.Buffer(nil, maxCommand)
		for lines.Scan() {
			var c Command
			if err := json.Unmarshal(lines.Bytes(), &c); err != nil {
				m.print(Event{Event: "error", Error: fmt.Sprintf("command: %v", err)})
				continue
			}
			select {
			case commands <- c:
			case <-ctx.Done():
				return
			}
		}
		if err := lines.Err(); err != nil {
			m.print(Event{Event: "error", Error: fmt.Sprintf("commands: %v", err)})
		}
	}()
	var running sync.WaitGroup
	var failed error
	attempted := p.registrationChanged()
	running.Go(func() {
		defer quit()
		failed = p.Run(ctx)
	})
	running.Go(func() { m.watchRegistration(ctx) })
	select {
	case <-attempted:
		m.serve(ctx, commands)
	case <-ctx.Done():
	}
	quit()
	running.Wait()
	m.watching.Wait()
	return errors.Join(failed, m.failure())
}

// console is Main's state: it numbers calls and prints.
type console struct {
	phone    *Phone
	watching sync.WaitGroup // a goroutine for each call

	mu      sync.Mutex // leaf
	out     *json.Encoder
	failed  error
	calls   map[int]*Call
	highest int
}

func (m *console) print(e Event) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.out.Encode(e); err != nil && m.failed == nil {
		m.failed = fmt.Errorf("event output: %w", err)
	}
}

func (m *console) failure() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.failed
}

func (m *console) watchRegistration(ctx context.Context) {
	said := ""
	for {
		changed := m.phone.registrationChanged()
		now := Event{Event: "registered"}
		if !m.phone.Registered() {
			now.Event = "unregistered"
			if err := m.phone.registration.lastError.Load(); err != nil {
				now.Error = (*err).Error()
			}
		}
		if say := now.Event + now.Error; say != said && (said != "" || say != "unregistered") {
			said = say
			m.print(now)
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return
		}
	}
}

func (m *console) serve(ctx context.Context, commands <-chan Command) {
	for {
		select {
		case <-ctx.Done():
			return
		case c := <-m.phone.Incoming():
			m.watch(c, "incoming")
		case c, ok := <-commands:
			if !ok || c.Cmd == "quit" {
				return
			}
			m.carryOut(ctx, c)
		}
	}
}

func (m *console) carryOut(ctx context.Context, c Command) {
	switch c.Cmd {
	case "call":
		call, err := m.phone.Dial(ctx, c.Target)
		if err != nil {
			m.print(Event{Event: "error", Error: err.Error()})
			return
		}
		m.watch(call, "calling")
	case "hangup":
		found := m.pick(c.Call)
		if len(found) == 0 {
			m.print(Event{Event: "error", Call: c.Call, Error: "no such call"})
		}
		for _, call := range found {
			m.watching.Go(func() {
				if err := call.Hangup(ctx); err != nil {
					m.print(Event{Event: "error", Error: err.Error()})
				}
			})
		}
	case "media":
		m.mu.Lock()
		numbers := make([]int, 0, len(m.calls))
		for n := range m.calls {
			numbers = append(numbers, n)
		}
		m.mu.Unlock()
		for _, n := range numbers {
			for _, call := range m.pick(n) {
				m.print(Event{Event: "media", Call: n, Media: reportOf(call.Stats())})
			}
		}
	default:
		m.print(Event{Event: "error", Error: fmt.Sprintf("unknown command %q", c.Cmd)})
	}
}

func (m *console) pick(number int) []*Call {
	m.mu.Lock()
	defer m.mu.Unlock()
	var found []*Call
	for n, c := range m.calls {
		if number == 0 || n == number {
			found = append(found, c)
		}
	}
	return found
}

// watch prints what becomes of a call. It ends with the call, which the end of
// the phone's Run ends too.
func (m *console) watch(c *Call, what string) {
	m.mu.Lock()
	m.highest++
	number := m.highest
	m.calls[number] = c
	m.mu.Unlock()
	m.print(Event{Event: what, Call: number, Peer: c.Peer()})
	m.watching.Go(func() {
		tick := time.NewTicker(mediaEvery)
		defer tick.Stop()
		ringing, answered := c.Ringing(), c.Answered()
		var media <-chan time.Time
		for {
			select {
			case <-ringing:
				ringing = nil
				m.print(Event{Event: "ringing", Call: number})
			case <-answered:
				if ringing != nil { // in that order, also when both happened at once
					ringing = nil
					m.print(Event{Event: "ringing", Call: number})
				}
				answered, media = nil, tick.C
				m.print(m.answer(number, c))
			case <-media:
				m.print(Event{Event: "media", Call: number, Media: reportOf(c.Stats())})
			case <-c.Done():
				select {
				case <-answered: // both at once: say both
					m.print(m.answer(number, c))
					answered = nil
				default:
				}
				m.end(number, c, answered == nil)
				return
			}
		}
	})
}

func (m *console) answer(number int, c *Call) Event {
	return Event{Event: "answered", Call: number, SetupMS: float64(c.SetupTime()) / float64(time.Millisecond)}
}

func (m *console) end(number int, c *Call, answered bool) {
	m.mu.Lock()
	delete(m.calls, number)
	m.mu.Unlock()
	if answered {
		m.print(Event{Event: "media", Call: number, Media: reportOf(c.Stats())})
	}
	ended := Event{Event: "ended", Call: number}
	if err := c.Err(); err != nil {
		ended.Error = err.Error()
		var status *StatusError
		if errors.As(err, &status) {
			ended.Status = status.Code
		}
	}
	m.print(ended)
}

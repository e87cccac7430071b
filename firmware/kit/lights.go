package kit

import (
	"context"
	"fmt"
	"sync"
	"time"

	"fieldkit/board"
	"fieldkit/firmware/health"
	"fieldkit/ui"
)

// lights shows the health tree and the counts of the kit on the board, real or simulated.
type lights struct {
	board   *board.Board
	changes chan struct{} // something to show may have changed

	mu   sync.Mutex // guards lost
	lost time.Time  // when a linked kit went away last
}

// refresh is how often the board is told even if nothing seems to have changed; far below the time after
// which it shows that nobody tells it anything.
const refresh = 5 * time.Second

// colours are those of the marks on the box (IEC 60073 where it says anything).
var colours = map[string]string{
	board.Power.String(): "white", board.Phones.String(): "green", board.LinkBlue.String(): "blue",
	board.LinkYellow.String(): "yellow", board.Red.String(): "red", board.Single.String(): "white",
}

func (l *lights) init(k *Kit, simulated *board.Simulated) {
	l.changes = make(chan struct{}, 1)
	cfg := board.Config{Log: k.log, OnPress: k.pressed}
	if simulated == nil && k.cfg.Board.Simulated {
		simulated = board.NewSimulated()
	}
	if simulated != nil {
		l.board = board.New(simulated.Hardware(), cfg)
	} else {
		l.board = board.Open(board.Pins(k.cfg.Board.Pins), cfg)
	}
}

// wake has the board told again, soon. It may be called from any goroutine and never blocks.
func (l *lights) wake() {
	select {
	case l.changes <- struct{}{}:
	default:
	}
}

// kitLost notes that a linked kit went away.
func (l *lights) kitLost() {
	l.mu.Lock()
	l.lost = time.Now()
	l.mu.Unlock()
	l.wake()
}

func (l *lights) lastLost() time.Time {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.lost
}

func (k *Kit) showLights(ctx context.Context, ready func()) error {
	l := &k.lights
	changes, cancel := k.health.Subscribe()
	defer cancel()
	tick := time.NewTicker(refresh)
	defer tick.Stop()
	return both(ctx, l.board.Run, func(ctx context.Context) error {
		ready()
		for {
			l.board.Update(k.lightInputs(ctx))
			select {
			case <-ctx.Done():
				return nil
			case <-changes:
			case <-l.changes:
			case <-tick.C:
			}
		}
	})
}

func (k *Kit) lightInputs(ctx context.Context) board.Inputs {
	var in board.Inputs
	if t := k.lights.lastLost(); !t.IsZero() {
		in.LastLost = board.Lost(time.Since(t))
	}
	if a := k.telephony.agent.Load(); a != nil {
		select {
		case <-a.Ready():
			in.Ready = true
			in.Handsets = len(a.Snapshot().Handsets)
			in.Full = k.accessFull()
		default:
		}
	}
	if n := k.overlay.node.Load(); n != nil {
		if s, err := n.Snapshot(ctx); err == nil {
			in.Kits = len(s.Ring) - 1
		}
	}
	in.Pairing = k.pairingLights()
	for _, p := range k.health.Problems() {
		in.Faults++
		if p.State == health.Fault && !in.Fault {
			in.Fault, in.Cause = true, fmt.Sprintf("%s: %s", p.Path, p.Cause)
		}
	}
	return in
}

func (l *lights) status() ui.Board {
	s := l.board.Snapshot()
	b := ui.Board{Kind: s.Board, State: s.Text, LEDs: []ui.LED{}}
	for led := board.Power; led <= board.Single; led++ {
		name := led.String()
		if p, fitted := s.LEDs[name]; fitted {
			b.LEDs = append(b.LEDs, ui.LED{Name: name, Colour: colours[name], Pattern: p.String(), Lit: s.Lit[name]})
		}
	}
	return b
}

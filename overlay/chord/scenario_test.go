package chord

import (
	"bufio"
	"bytes"
	"encoding/hex"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"fieldkit/overlay/wire"
)

var rewrite = flag.Bool("rewrite", false, "rewrite testdata/*.txt with what the code does now; commit only what you understand")

// TestScenarios plays the files of testdata. A line is a command, what it brings stands below it
// behind "> ", and "#" begins prose. The commands:
//
//	peer 40                      a new State with Node-ID 40 00 … 00; time 0
//	peer 40 mesh=4 peers=8 periodic tuning …  with another Config
//	+1s500ms                     let time pass: each Deadline on the way gets its Tick
//	discovered 80, forgotten 80, update-requested 80, join 80, join-answered 80, join-failed 80,
//	leave 80, peer-failed 80, bootstrap-failed 80, shutdown
//	link 80 attached [ours] [send-update], link 80 bootstrap [ours], down 80 attached
//	attach-failed 80 [in-progress]
//	probe-answered via 80 owner 90, probe-failed 80
//	update 80 pred 70 60 succ 90 [fingers c0 10], ready 80
//	search-answered 90 for the last Search, search-failed
//	hop node 90, hop resource 90, state
//
// Node-IDs are written by their first byte; +1 stands for the Resource-ID one above self.
func TestScenarios(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatal("no scenarios: ", err)
	}
	for _, f := range files {
		t.Run(strings.TrimSuffix(filepath.Base(f), ".txt"), func(t *testing.T) {
			want, err := os.ReadFile(f)
			if err != nil {
				t.Fatal(err)
			}
			got := play(t, want)
			if *rewrite {
				if err := os.WriteFile(f, got, 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			if !bytes.Equal(got, want) {
				a, b := strings.Split(string(want), "\n"), strings.Split(string(got), "\n")
				for i := range a {
					if i >= len(b) || a[i] != b[i] {
						t.Fatalf("%s:%d: want %q, got %q\nafter that:\n%s", f, i+1, a[i], b[min(i, len(b)-1)], strings.Join(b[min(i, len(b)-1):], "\n"))
					}
				}
				t.Fatalf("%s: more output than expected:\n%s", f, got[len(want):])
			}
		})
	}
}

type player struct {
	t   *testing.T
	s   *State
	now time.Time
	out bytes.Buffer
	// point of the last Search
	point wire.ResourceID
}

func play(t *testing.T, script []byte) []byte {
	p := &player{t: t, now: epoch}
	lines := bufio.NewScanner(bytes.NewReader(script))
	for lines.Scan() {
		line := lines.Text()
		if strings.HasPrefix(line, "> ") {
			continue
		}
		fmt.Fprintln(&p.out, line)
		if line != "" && !strings.HasPrefix(line, "#") {
			p.command(strings.Fields(line))
		}
	}
	return p.out.Bytes()
}

// short makes a Node-ID of its first byte.
func short(t testing.TB, s string) wire.NodeID {
	t.Helper()
	b, err := hex.DecodeString(s)
	if err != nil || len(b) != 1 {
		t.Fatalf("Node-ID %q", s)
	}
	id, err := wire.NodeIDFrom(append(b, make([]byte, 15)...))
	if err != nil {
		t.Fatal(err)
	}
	return id
}

func name(id wire.NodeID) string {
	if id.IsZero() {
		return "all"
	}
	return id.String()[:2]
}

func names(ids []wire.NodeID) string {
	var list []string
	for _, id := range ids {
		list = append(list, name(id))
	}
	if list == nil {
		return "-"
	}
	return strings.Join(list, " ")
}

func (p *player) command(w []string) {
	if strings.HasPrefix(w[0], "+") {
		d, err := time.ParseDuration(w[0][1:])
		if err != nil {
			p.t.Fatal(err)
		}
		p.pass(d)
		return
	}
	arg := func(i int) wire.NodeID {
		if i >= len(w) {
			p.t.Fatalf("%v: argument is missing", w)
		}
		return short(p.t, w[i])
	}
	kind := func() LinkKind {
		if w[2] == "bootstrap" {
			return LinkBootstrap
		}
		return LinkAttached
	}
	switch w[0] {
	case "peer":
		cfg := Config{Rand: rand.New(rand.NewPCG(1, 1))}
		for _, o := range w[2:] {
			switch o {
			case "periodic":
				cfg.Periodic = true
				continue
			case "tuning":
				cfg.SelfTuning = true
				continue
			}
			key, value, _ := strings.Cut(o, "=")
			field := map[string]*int{"mesh": &cfg.FullMesh, "peers": &cfg.MaxPeers, "contacts": &cfg.MaxContacts, "boot": &cfg.MaxBoot}[key]
			if _, err := fmt.Sscan(value, field); err != nil {
				p.t.Fatalf("%v: %v", w, err)
			}
		}
		p.s = New(cfg, arg(1), p.now)
	case "discovered":
		p.step(Discovered{arg(1)})
	case "forgotten":
		p.step(Forgotten{arg(1)})
	case "bootstrap-failed":
		p.step(BootstrapFailed{arg(1)})
	case "update-requested":
		p.step(UpdateRequested{arg(1)})
	case "join":
		p.step(JoinReceived{arg(1)})
	case "join-answered":
		p.step(JoinAnswered{arg(1)})
	case "join-failed":
		p.step(JoinFailed{arg(1)})
	case "leave":
		p.step(LeaveReceived{From: arg(1)})
	case "peer-failed":
		p.step(PeerFailed{arg(1)})
	case "shutdown":
		p.step(Shutdown{})
	case "link":
		p.step(LinkUp{ID: arg(1), Kind: kind(), Ours: slices.Contains(w, "ours"), SendUpdate: slices.Contains(w, "send-update")})
	case "down":
		p.step(LinkDown{ID: arg(1), Kind: kind()})
	case "attach-failed":
		p.step(AttachFailed{ID: arg(1), InProgress: slices.Contains(w, "in-progress")})
	case "probe-answered":
		p.step(ProbeAnswered{Via: arg(2), Owner: arg(4)})
	case "search-answered":
		p.step(SearchAnswered{Resource: p.point, Owner: arg(1)})
	case "search-failed":
		p.step(SearchFailed{Resource: p.point})
	case "probe-failed":
		p.step(ProbeFailed{arg(1)})
	case "ready":
		p.step(UpdateReceived{From: arg(1), Update: wire.ChordUpdate{Type: wire.UpdatePeerReady}})
	case "update":
		u := wire.ChordUpdate{Type: wire.UpdateNeighbors}
		list := &u.Predecessors
		for i := 2; i < len(w); i++ {
			switch w[i] {
			case "pred":
				list = &u.Predecessors
			case "succ":
				list = &u.Successors
			case "fingers":
				list, u.Type = &u.Fingers, wire.UpdateFull
			default:
				*list = append(*list, arg(i))
			}
		}
		p.step(UpdateReceived{From: arg(1), Update: u})
	case "hop":
		d := wire.ToNode(arg(2))
		if w[1] == "resource" {
			d = wire.ToResource(wire.ResourceID(arg(2).Bytes()))
		}
		switch h := p.s.NextHop(d); {
		case h.Local:
			p.print("local")
		case h.Via.IsZero():
			p.print("drop")
		default:
			p.print("via " + name(h.Via))
		}
	case "state":
		sn := p.s.Snapshot()
		p.print(fmt.Sprintf("%v, predecessors %s, successors %s", sn.Phase, names(sn.Predecessors), names(sn.Successors)))
	default:
		p.t.Fatalf("unknown command %v", w)
	}
}

func (p *player) pass(d time.Duration) {
	end := p.now.Add(d)
	for {
		at := p.s.Deadline()
		if !at.After(p.now) {
			p.t.Fatal("Deadline is not in the future")
		}
		if at.After(end) {
			break
		}
		p.now = at
		p.step(Tick{})
	}
	p.now = end
}

func (p *player) print(s string) { fmt.Fprintln(&p.out, ">", s) }

func (p *player) step(in Input) {
	for _, o := range p.s.Step(p.now, in) {
		s := ""
		switch o := o.(type) {
		case Bootstrap:
			s = "Bootstrap " + name(o.ID)
		case Probe:
			if o.Resource != next(p.s.self) {
				p.t.Errorf("probe of %v", o.Resource)
			}
			s = fmt.Sprintf("Probe Resource +1 via %s", name(o.Via))
		case Attach:
			s = fmt.Sprintf("Attach %s via %s, send_update %v", name(o.ID), names(o.Via), o.SendUpdate)
		case SendUpdate:
			kind := map[wire.ChordUpdateType]string{wire.UpdatePeerReady: "peer_ready", wire.UpdateNeighbors: "neighbors", wire.UpdateFull: "full"}
			s = fmt.Sprintf("Update %s to %s: pred %s, succ %s", kind[o.Update.Type], name(o.To), names(o.Update.Predecessors), names(o.Update.Successors))
			if o.Update.Type == wire.UpdateFull {
				s += ", fingers " + names(o.Update.Fingers)
			}
		case SendJoin:
			s = "Join to " + name(o.To)
		case AnswerJoin:
			s = fmt.Sprintf("AnswerJoin %s, accepted %v", name(o.To), o.Accepted)
		case Search:
			p.point = o.Resource
			s = fmt.Sprintf("Search %s", hex.EncodeToString([]byte(o.Resource[:1])))
		case ProbeInfo:
			s = fmt.Sprintf("ProbeInfo to %s: %+v", name(o.To), o.Tuning)
		case HandOver:
			s = "HandOver to " + name(o.To)
		case SendLeave:
			s = fmt.Sprintf("Leave to %s: type %d, %s", name(o.To), o.Leave.Type, names(o.Leave.Nodes))
		case CloseLink:
			s = fmt.Sprintf("CloseLink %s %v", name(o.ID), o.Kind)
		case NeighboursChanged:
			s = fmt.Sprintf("NeighboursChanged: pred %s, succ %s", names(o.Predecessors), names(o.Successors))
		case RangeChanged:
			s = "RangeChanged: after " + name(o.After)
		case RingChanged:
			s = "RingChanged: " + names(o.Members)
		case Settled:
			s = "Settled"
		default:
			p.t.Fatalf("unknown output %T", o)
		}
		p.print(fmt.Sprintf("%6.2fs %s", p.now.Sub(epoch).Seconds(), s))
	}
}

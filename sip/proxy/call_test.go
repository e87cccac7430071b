package proxy

import (
	"bufio"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

var rewrite = flag.Bool("rewrite", false, "write the transcripts anew")

// A transcript is a list of `TIME EVENT` lines; the actions follow, indented.
// `config` lines come first. `go test -rewrite` writes the actions anew; the
// difference is reviewed like code.
func TestTranscripts(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatal("no transcripts", err)
	}
	for _, f := range files {
		t.Run(strings.TrimSuffix(filepath.Base(f), ".txt"), func(t *testing.T) {
			want, err := os.ReadFile(f)
			if err != nil {
				t.Fatal(err)
			}
			got := replay(t, string(want))
			if *rewrite {
				if err := os.WriteFile(f, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			if got != string(want) {
				t.Errorf("got\n%s\nwant\n%s", got, want)
			}
		})
	}
}

func replay(t *testing.T, in string) string {
	t.Helper()
	var out strings.Builder
	var cfg Config
	var c *Call
	start := time.Unix(0, 0)
	sc := bufio.NewScanner(strings.NewReader(in))
	for sc.Scan() {
		line := sc.Text()
		if strings.HasPrefix(line, "    ") {
			continue
		}
		fmt.Fprintln(&out, line)
		if line == "" || line[0] == '#' {
			continue
		}
		words := strings.Fields(line)
		if words[0] == "config" {
			cfg.Ring, cfg.Idle = duration(t, words[1]), duration(t, words[2])
			continue
		}
		if c == nil {
			c = NewCall(cfg)
		}
		for _, a := range c.Step(start.Add(duration(t, words[0])), event(t, words[1:])) {
			fmt.Fprintln(&out, "    "+a.String())
		}
		if d := c.Deadline(); !d.IsZero() && words[1] == "timeout" && len(words) > 2 {
			fmt.Fprintln(&out, "    next "+d.Sub(start).String())
		}
	}
	return out.String()
}

func duration(t *testing.T, s string) time.Duration {
	t.Helper()
	d, err := time.ParseDuration(s)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func event(t *testing.T, w []string) Event {
	t.Helper()
	num := func(i int) int {
		n, err := strconv.Atoi(w[i])
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	switch w[0] {
	case "invite", "message":
		ev := Invite{Dialog: w[0] == "invite"}
		for _, x := range w[1:] {
			switch x {
			case "known":
				ev.Known = true
			case "lookup":
				ev.Lookup = true
			default:
				ev.Contacts = append(ev.Contacts, x)
			}
		}
		return ev
	case "found":
		if len(w) > 1 && w[1] == "unavailable" {
			return Found{Unavailable: true}
		}
		return Found{Kits: w[1:]}
	case "opened":
		return Opened{Branch: num(1)}
	case "failed":
		return Failed{Branch: num(1), Status: num(2)}
	case "response":
		return Response{Branch: num(1), Status: num(2)}
	case "cancel":
		return Cancel{}
	case "refuse":
		return Refuse{Status: num(1)}
	case "request": // ID METHOD SIDE BRANCH [lost]
		side := Caller
		if w[3] == "callee" {
			side = Callee
		}
		return Request{ID: uint64(num(1)), Method: w[2], From: side, Branch: num(4), Lost: len(w) > 5}
	case "done":
		return RequestDone{ID: uint64(num(1)), Status: num(2)}
	case "alive":
		return Alive{}
	case "timeout":
		return Timeout{}
	}
	t.Fatalf("no event %q", w)
	return nil
}

// Whatever happens in whatever order: one final response, none after it but 2xx;
// a CANCEL only for what answered provisionally (§9.1); an end within bounded
// time after the last event; never more than the bounds.
func TestRandomCalls(t *testing.T) {
	for seed := range uint64(3000) {
		rnd := rand.New(rand.NewPCG(seed, 1))
		c := NewCall(Config{})
		now := time.Unix(0, 0)
		finals, finished := 0, 0
		provisional := map[int]bool{}
		forwarded := map[int]bool{}
		check := func(acts []Action) {
			for _, a := range acts {
				if _, refused := a.(ReplyRequest); finished > 0 && !refused {
					t.Fatalf("seed %d: %s after finish", seed, a)
				}
				switch a := a.(type) {
				case Reply:
					if a.Status >= 200 {
						finals++
					}
				case Relay:
					if a.Status >= 300 || (a.Status >= 200 && finals == 0) {
						finals++
					}
				case Forward:
					if forwarded[a.Branch] {
						t.Fatalf("seed %d: branch %d forwarded twice", seed, a.Branch)
					}
					forwarded[a.Branch] = true
				case CancelBranch:
					if !provisional[a.Branch] {
						t.Fatalf("seed %d: CANCEL before a provisional response", seed)
					}
				case Finish:
					finished++
				}
			}
			if finals > 1 {
				t.Fatalf("seed %d: %d final responses", seed, finals)
			}
		}
		step := func(ev Event) {
			if r, ok := ev.(Response); ok {
				if !forwarded[r.Branch] {
					return
				}
				if r.Status < 200 {
					provisional[r.Branch] = true
				}
			}
			check(c.Step(now, ev))
		}
		ev := Invite{Dialog: rnd.IntN(4) > 0, Known: rnd.IntN(2) > 0, Lookup: rnd.IntN(2) > 0}
		for i := range rnd.IntN(4) {
			ev.Contacts = append(ev.Contacts, fmt.Sprint("c", i))
		}
		step(ev)
		status := []int{100, 180, 183, 200, 202, 302, 401, 404, 408, 480, 486, 487, 500, 503, 600, 603}
		for range rnd.IntN(40) {
			now = now.Add(time.Duration(rnd.IntN(5000)) * time.Millisecond)
			b := rnd.IntN(6)
			switch rnd.IntN(12) {
			case 0:
				step(Found{Kits: []string{"k1", "k2"}[:rnd.IntN(3)], Unavailable: rnd.IntN(2) > 0})
			case 1:
				step(Opened{b})
			case 2:
				step(Failed{b, status[5+rnd.IntN(11)]})
			case 3:
				step(Cancel{})
			case 4:
				if rnd.IntN(8) == 0 {
					step(Refuse{503})
				}
			case 5:
				step(Request{ID: uint64(rnd.IntN(9)), Branch: b, From: Side(1 + rnd.IntN(2)), Method: []string{"BYE", "ACK", "INFO"}[rnd.IntN(3)]})
			case 6:
				step(RequestDone{ID: uint64(rnd.IntN(9)), Status: 200})
			case 7:
				step(Timeout{})
			default:
				step(Response{b, status[rnd.IntN(len(status))]})
			}
			if finished > 0 {
				break
			}
		}
		for range 100 { // left alone, it ends
			d := c.Deadline()
			if d.IsZero() {
				break
			}
			if d.After(now) {
				now = d
			}
			check(c.Step(now, Timeout{}))
		}
		if !c.Ended() || finished != 1 || finals != 1 {
			t.Fatalf("seed %d: ended %v, %d finishes, %d finals", seed, c.Ended(), finished, finals)
		}
	}
}

func TestBranchBound(t *testing.T) {
	var names []string
	for i := range 3 * MaxBranches {
		names = append(names, fmt.Sprint(i))
	}
	n := 0
	for _, a := range NewCall(Config{}).Step(time.Unix(0, 0), Invite{Dialog: true, Contacts: names}) {
		if _, ok := a.(Forward); ok {
			n++
		}
	}
	if n != MaxBranches {
		t.Errorf("%d branches, want %d", n, MaxBranches)
	}
}

//go:build linux

package e2e

import (
	"bytes"
	"encoding/csv"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"fieldkit/firmware/lab"
	"fieldkit/firmware/mission"
)

// sipp is one sipp that plays a scenario of testdata/sipp; every scenario stands for a phone.
type sipp struct {
	t    *testing.T
	name string
	cmd  *exec.Cmd
	dir  string
	out  bytes.Buffer
	done chan error
}

// startSipp plays a scenario calls times at the seat, with the account of the phone that stands there.
func startSipp(t *testing.T, l *lab.Lab, seat *lab.Seat, scenario string, account mission.Handset, calls int, args ...string) *sipp {
	t.Helper()
	s := &sipp{t: t, name: scenario, dir: t.TempDir(), done: make(chan error, 1)}
	users := filepath.Join(s.dir, "users.csv")
	must(t, os.WriteFile(users, fmt.Appendf(nil, "SEQUENTIAL\n%s;[authentication username=%s password=%s]\n",
		account.Number, account.Number, account.Password), 0o600))
	file, err := filepath.Abs("testdata/sipp/" + scenario + ".xml")
	must(t, err)
	s.cmd = exec.Command("sipp", append([]string{
		seat.Server.String(), "-sf", file, "-inf", users, "-i", seat.Address.String(), "-p", "5060", "-t", "u1",
		"-key", "domain", l.Mission().Overlay, "-m", strconv.Itoa(calls), "-timeout", "60s", "-timeout_error",
		"-nostdin", "-trace_err", "-trace_stat", "-stf", filepath.Join(s.dir, "stat.csv"), "-fd", "1",
	}, args...)...)
	s.cmd.Dir, s.cmd.Env = s.dir, append(os.Environ(), "TERM=dumb")
	s.cmd.Stdout, s.cmd.Stderr = &s.out, &s.out
	must(t, seat.Start(s.cmd))
	ended := make(chan struct{})
	go func() { s.done <- s.cmd.Wait(); close(ended) }()
	t.Cleanup(func() {
		_ = s.cmd.Process.Kill() // it has ended, unless the test failed
		<-ended
	})
	return s
}

// worked waits until sipp ends, and holds it against its own statistics: so many calls, all of them as the
// scenario has it.
func (s *sipp) worked(calls int) {
	s.t.Helper()
	err := <-s.done
	good, bad := s.counted()
	if err != nil || good != calls || bad != 0 {
		said, _ := filepath.Glob(filepath.Join(s.dir, "*errors.log"))
		for _, name := range said {
			b, _ := os.ReadFile(name)
			s.t.Logf("%s: %.3000s", s.name, b)
		}
		s.t.Fatalf("%s: %d calls as they should be and %d not, want %d: %v\n%s", s.name, good, bad, calls, err, s.out.Bytes()[max(0, s.out.Len()-2000):])
	}
}

// counted are the calls that sipp says were successful and failed.
func (s *sipp) counted() (good, bad int) {
	s.t.Helper()
	f, err := os.Open(filepath.Join(s.dir, "stat.csv"))
	must(s.t, err)
	defer f.Close()
	r := csv.NewReader(f)
	r.Comma, r.FieldsPerRecord = ';', -1
	rows, err := r.ReadAll()
	must(s.t, err)
	if len(rows) < 2 {
		s.t.Fatalf("%s: no statistics", s.name)
	}
	last := rows[len(rows)-1]
	for i, head := range rows[0][:len(last)] {
		switch head {
		case "SuccessfulCall(C)":
			good, err = strconv.Atoi(last[i])
		case "FailedCall(C)":
			bad, err = strconv.Atoi(last[i])
		}
		must(s.t, err)
	}
	return good, bad
}

// User agents that are not ours, many calls at a time, from one kit to another and back into silence.
func TestManyCallsOfSippAcrossKits(t *testing.T) {
	l := running(t, lab.Options{Kits: 2}, "anna", "boris")
	anna, boris := l.Mission().Handsets[0], l.Mission().Handsets[1]
	at, err := l.Handset(0)
	must(t, err)
	far, err := l.Handset(1)
	must(t, err)
	startSipp(t, l, far, "register", boris, 1, "-auth_uri", l.Mission().Overlay).worked(1)
	registered(t, l.Kits[1], boris.Number)
	var before [2]int64
	for i, k := range l.Kits {
		before[i] = status(t, k).Kit.RSSBytes
	}
	const calls = 20
	total := uint64(0)
	for _, c := range []struct{ name, caller, callee string }{
		{"caller hangs up", "caller-hangs-up", "callee-answers"},
		{"callee hangs up", "caller-hears-bye", "callee-hangs-up"},
		{"caller gives up", "caller-gives-up", "callee-rings"},
	} {
		t.Run(c.name, func(t *testing.T) {
			answers := startSipp(t, l, far, c.callee, boris, calls)
			asks := startSipp(t, l, at, c.caller, anna, calls, "-r", "10", "-s", boris.Number, "-auth_uri", boris.Number+"@"+l.Mission().Overlay)
			asks.worked(calls)
			answers.worked(calls)
			// Every call is over at the phones, so it is over at the kits.
			eventually(t, 3*time.Second, func() error { return noCalls(l) })
			total += calls
			for i, k := range l.Kits {
				s := status(t, k)
				t.Logf("kit %d: %.1f MB resident, %.1f MB before", k.Number, float64(s.Kit.RSSBytes)/1e6, float64(before[i])/1e6)
				if n := counter(s, "sip calls"); n != total {
					t.Errorf("kit %d counts %d calls of %d", k.Number, n, total)
				}
				if s.Kit.RSSBytes > before[i]+20e6 {
					t.Errorf("kit %d has %.1f MB resident after %d calls, %.1f MB before", k.Number, float64(s.Kit.RSSBytes)/1e6, total, float64(before[i])/1e6)
				}
			}
		})
	}
}

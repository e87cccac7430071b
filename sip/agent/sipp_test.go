package agent

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"fieldkit/sip/registrar"
)

// program finds a program of a Debian package. CI has it; without it the test
// says what is missing.
func program(t *testing.T, name string) string {
	t.Helper()
	p, err := exec.LookPath(name)
	if err != nil {
		if os.Getenv("FIELDKIT_CI") == "1" {
			t.Fatalf("%s is not installed (Debian package %s)", name, name)
		}
		t.Skipf("needs the Debian package %s", name)
	}
	return p
}

type sipp struct {
	cmd *exec.Cmd
	out *bytes.Buffer
	dir string
}

// startSipp starts a scenario from testdata.
func startSipp(t *testing.T, k *kit, scenario string, acc registrar.Account, host string, port int, transport string, args ...string) *sipp {
	t.Helper()
	dir := t.TempDir()
	users := filepath.Join(dir, "users.csv")
	line := fmt.Sprintf("SEQUENTIAL\n%s;[authentication username=%s password=%s]\n", acc.Name, acc.Name, acc.Password)
	if err := os.WriteFile(users, []byte(line), 0o600); err != nil {
		t.Fatal(err)
	}
	file, err := filepath.Abs("testdata/sipp/" + scenario + ".xml")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	t.Cleanup(cancel)
	cmd := exec.CommandContext(ctx, program(t, "sipp"), append([]string{
		k.addr.String(), "-sf", file, "-inf", users, "-i", host, "-p", strconv.Itoa(port), "-t", transport,
		"-nostdin", "-timeout", "25s", "-timeout_error", "-trace_err",
	}, args...)...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "TERM=dumb")
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	return &sipp{cmd, &out, dir}
}

func (s *sipp) wait(t *testing.T, what string) {
	t.Helper()
	if err := s.cmd.Wait(); err != nil {
		logs, _ := filepath.Glob(s.dir + "/*errors.log")
		for _, l := range logs {
			b, _ := os.ReadFile(l)
			t.Logf("%s: %.4000s", what, b)
		}
		out := s.out.String()
		t.Fatalf("%s: %v\n%s", what, err, out[max(0, len(out)-3000):])
	}
}

// A user agent that is not ours registers with digest and calls, on one kit and
// across two.
func TestSipp(t *testing.T) {
	for i, c := range []struct {
		name      string
		far       bool
		transport string
	}{{"one kit udp", false, "u1"}, {"two kits udp", true, "u1"}, {"one kit tcp", false, "t1"}} {
		t.Run(c.name, func(t *testing.T) {
			const calls = 20
			all := newShared()
			k1 := newKit(t, all, nil)
			k2 := k1
			if c.far {
				k2 = newKit(t, all, nil)
			}
			host, port := fmt.Sprintf("127.0.63.%d", i+1), 6000+20*i
			startSipp(t, k2, "register", testAccounts[1], host, port, "u1", "-m", "1", "-auth_uri", overlayName).wait(t, "register")
			if c.far {
				eventually(t, "published", func() bool {
					all.mu.Lock()
					defer all.mu.Unlock()
					return all.where["10002@"+overlayName][k2.cfg.Kit]
				})
			}
			callee := startSipp(t, k2, "callee", testAccounts[1], host, port, "u1", "-m", strconv.Itoa(calls))
			caller := startSipp(t, k1, "caller", testAccounts[0], fmt.Sprintf("127.0.64.%d", i+1), port, c.transport,
				"-m", strconv.Itoa(calls), "-r", "20", "-s", "10002", "-auth_uri", "10002@"+overlayName)
			caller.wait(t, "caller")
			callee.wait(t, "callee")
			s := k1.Snapshot()
			if s.Stats.Answered != calls || len(s.Calls) != 0 {
				t.Errorf("%d calls answered, %d left, want %d and none", s.Stats.Answered, len(s.Calls), calls)
			}
		})
	}
}

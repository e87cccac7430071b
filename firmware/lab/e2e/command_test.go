//go:build linux

package e2e

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"fieldkit/firmware/lab"
)

func ringOf(k *lab.Kit, n int) error {
	s, err := k.Status(context.Background())
	if err != nil {
		return err
	}
	if len(s.Ring) != n {
		return fmt.Errorf("kit %d sees a ring of %d, want %d", k.Number, len(s.Ring), n)
	}
	return nil
}

func knownAt(k *lab.Kit, addr string) error {
	s, err := k.Status(context.Background())
	if err != nil {
		return err
	}
	for _, n := range s.Kits {
		for _, a := range n.Addresses {
			if bytes.HasPrefix([]byte(a), []byte(addr)) {
				return nil
			}
		}
	}
	return fmt.Errorf("kit %d knows nobody at %s", k.Number, addr)
}

// programs copies the programs to where every user can read them.
func programs(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "fieldkit-e2e-")
	must(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	must(t, os.Chmod(dir, 0o755))
	for _, name := range []string{"fieldkit", "fieldkitd"} {
		b, err := os.ReadFile(filepath.Join("../../../bin", name))
		must(t, err)
		must(t, os.WriteFile(filepath.Join(dir, name), b, 0o755))
	}
	return dir
}

// runLab runs the command as a user would and returns its document.
func runLab(t *testing.T, attr *syscall.SysProcAttr, args ...string) (lab.Report, int) {
	t.Helper()
	bin, err := filepath.Abs("../../../bin/fieldkit")
	must(t, err)
	if attr != nil {
		bin = filepath.Join(programs(t), "fieldkit")
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, bin, append([]string{"lab", "--json"}, args...)...)
	cmd.SysProcAttr = attr
	cmd.Dir = os.TempDir()
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err = cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	var r lab.Report
	d := json.NewDecoder(&out)
	if err := d.Decode(&r); err != nil {
		t.Fatalf("no document: %v\n%s", err, errs.String())
	}
	if d.More() {
		t.Error("more than one document")
	}
	return r, cmd.ProcessState.ExitCode()
}

func checkReport(t *testing.T, r lab.Report, code, kits, calls int) {
	t.Helper()
	if code != 0 || len(r.Problems) != 0 {
		t.Fatalf("exit %d: %v", code, r.Problems)
	}
	if len(r.Kits) != kits || len(r.Ring) != kits || len(r.Calls) != calls {
		t.Fatalf("%d kits, ring of %d, %d calls", len(r.Kits), len(r.Ring), len(r.Calls))
	}
	for _, k := range r.Kits {
		if len(k.NodeID) != 32 || k.Number < 100 || k.RSSBytes < 1e6 || k.Goroutines < 5 || k.LED == "" || kits > 1 && k.JoinedMS <= 0 {
			t.Errorf("kit %+v", k)
		}
	}
	for _, c := range r.Calls {
		if !c.Answered || c.SetupMS <= 0 || len(c.Media) != 2 || kits > 1 && c.FromKit == c.ToKit {
			t.Errorf("call %+v", c)
		}
		for _, m := range c.Media {
			if !m.ToneOK || m.Received < 40 || m.Sent < m.Received {
				t.Errorf("media %+v", m)
			}
		}
	}
}

func TestLabCommandPrintsOneDocument(t *testing.T) {
	r, code := runLab(t, nil, "--kits", "3", "--calls", "2", "--talk", "2s")
	checkReport(t, r, code, 3, 2)
}

func TestLabCommandOnLoopback(t *testing.T) {
	r, code := runLab(t, nil, "--kits", "3", "--calls", "1", "--talk", "2s", "--net", "loopback")
	checkReport(t, r, code, 3, 1)
}

func TestLabCommandAsAnOrdinaryUser(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("this is what the other tests do already when not run by root")
	}
	r, code := runLab(t, asNobody(), "--kits", "2", "--calls", "1", "--talk", "2s")
	checkReport(t, r, code, 2, 1)
	if r.Network[:10] != "network na" {
		t.Errorf("ran on %s", r.Network)
	}
}

func asNobody() *syscall.SysProcAttr {
	const nobody = 65534
	return &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
}

// Ctrl-C ends the demonstration soon, and nothing of it is left: no process, no file, no interface.
func TestDemonstrationEndsWithoutATrace(t *testing.T) {
	bin := programs(t)
	for _, c := range []struct {
		name string
		attr *syscall.SysProcAttr
		args []string
		when string // what it printed before Ctrl-C
	}{
		{"while it starts", nil, nil, "Starting"},
		{"in a call", nil, nil, "answered"},
		{"on loopback", nil, []string{"--net", "loopback"}, "answered"},
		{"as an ordinary user", asNobody(), nil, "answered"},
		{"as an ordinary user while it starts", asNobody(), nil, "Starting"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if c.attr != nil && os.Geteuid() != 0 {
				t.Skip("this is what the other tests do already when not run by root")
			}
			before := interfaces(t)
			dir, err := os.MkdirTemp("", "e2e-") // short: it is part of a socket's name
			must(t, err)
			defer os.RemoveAll(dir)
			must(t, os.Chmod(dir, 0o777))
			cmd := exec.Command(filepath.Join(bin, "fieldkit"), append([]string{"lab", "--kits", "2"}, c.args...)...)
			cmd.SysProcAttr, cmd.Dir, cmd.Env = c.attr, dir, append(os.Environ(), "TMPDIR="+dir)
			out, err := cmd.StdoutPipe()
			must(t, err)
			var complaints bytes.Buffer
			cmd.Stderr = &complaints
			must(t, cmd.Start())
			defer func() { _ = cmd.Process.Kill() }()
			giveUp := time.AfterFunc(time.Minute, func() { _ = cmd.Process.Kill() })
			defer giveUp.Stop()
			seen := false
			for lines := bufio.NewScanner(out); lines.Scan(); {
				if !seen && strings.Contains(lines.Text(), c.when) {
					seen = true
					must(t, cmd.Process.Signal(os.Interrupt))
					giveUp.Reset(10 * time.Second)
				}
			}
			if err := cmd.Wait(); err != nil || !seen {
				t.Errorf("%v after %q was seen: %v; %s", err, c.when, seen, complaints.String())
			}
			if complaints.Len() > 0 {
				t.Errorf("it said %q", complaints.String())
			}
			if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
				t.Errorf("files are left: %v, %v", left, err)
			}
			if left := processesOf(t, dir); len(left) > 0 {
				t.Errorf("processes are left: %q", left)
			}
			if after := interfaces(t); !slices.Equal(before, after) {
				t.Errorf("interfaces %v, %v before", after, before)
			}
		})
	}
}

// interfaces are this machine's that a lab made.
func interfaces(t *testing.T) (names []string) {
	t.Helper()
	all, err := net.Interfaces()
	must(t, err)
	for _, i := range all {
		if strings.HasPrefix(i.Name, "fieldkit") {
			names = append(names, i.Name)
		}
	}
	return names
}

// processesOf are the command lines that name a directory.
func processesOf(t *testing.T, dir string) (found []string) {
	t.Helper()
	names, err := filepath.Glob("/proc/[0-9]*/cmdline")
	must(t, err)
	for _, name := range names {
		if b, err := os.ReadFile(name); err == nil && bytes.Contains(b, []byte(dir)) {
			found = append(found, string(bytes.ReplaceAll(b, []byte{0}, []byte{' '})))
		}
	}
	return found
}

// The exit status says whether every call worked.
func TestLabCommandFailsWhenACallFails(t *testing.T) {
	r, code := runLab(t, nil, "--kits", "2", "--calls", "1", "--talk", "1s", "--within", "3s", "--loss", "100")
	if code == 0 || len(r.Problems) == 0 {
		t.Errorf("exit %d with nothing getting through, problems %v", code, r.Problems)
	}
}

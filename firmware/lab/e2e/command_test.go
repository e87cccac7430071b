//go:build linux

package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
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

// runLab runs the command as a user would and returns its document.
func runLab(t *testing.T, attr *syscall.SysProcAttr, args ...string) (lab.Report, int) {
	t.Helper()
	bin, err := filepath.Abs("../../../bin/fieldkit")
	must(t, err)
	if attr != nil {
		// Another user must be able to read the programs.
		dir, err := os.MkdirTemp("", "fieldkit-e2e-")
		must(t, err)
		t.Cleanup(func() { _ = os.RemoveAll(dir) })
		must(t, os.Chmod(dir, 0o755))
		for _, name := range []string{"fieldkit", "fieldkitd"} {
			b, err := os.ReadFile(filepath.Join(filepath.Dir(bin), name))
			must(t, err)
			must(t, os.WriteFile(filepath.Join(dir, name), b, 0o755))
		}
		bin = filepath.Join(dir, "fieldkit")
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
	const nobody = 65534
	r, code := runLab(t, &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}, "--kits", "2", "--calls", "1", "--talk", "2s")
	checkReport(t, r, code, 2, 1)
	if r.Network[:10] != "network na" {
		t.Errorf("ran on %s", r.Network)
	}
}

// The exit status says whether every call worked.
func TestLabCommandFailsWhenACallFails(t *testing.T) {
	r, code := runLab(t, nil, "--kits", "2", "--calls", "1", "--talk", "1s", "--within", "3s", "--loss", "100")
	if code == 0 || len(r.Problems) == 0 {
		t.Errorf("exit %d with nothing getting through, problems %v", code, r.Problems)
	}
}

//go:build linux

package e2e

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"fieldkit/firmware/lab"
	"fieldkit/overlay/wire"
	"fieldkit/ui"
)

// Who looks for a fault asks a kit for the way to another, to a person's registration, and, where the mission's document
// lets that kit ask, how the kits on the way are (RFC 7851).
func TestTraceFromAHandset(t *testing.T) {
	l := running(t, lab.Options{Kits: 3}, "anna", "boris")
	p := phones(t, l, 0, 1)
	seat, err := l.Handset(0)
	must(t, err)
	tool, err := filepath.Abs("../../../bin/fieldkit")
	must(t, err)
	trace := func(whom string, more ...string) (string, error) {
		pause(t, 1100*time.Millisecond) // one a second
		cmd := exec.Command(tool, append([]string{"trace", whom, "--kit", "http://" + seat.Server.String()}, more...)...)
		var out bytes.Buffer
		cmd.Stdout, cmd.Stderr = &out, &out
		must(t, seat.Start(cmd))
		err := cmd.Wait()
		return out.String(), err
	}
	ask := func(whom string) (w ui.Trace, err error) {
		out, err := trace(whom, "--json")
		if err != nil {
			return w, fmt.Errorf("%s: %w\n%s", whom, err, out)
		}
		return w, json.Unmarshal([]byte(out), &w)
	}
	far := status(t, l.Kits[2]).Kit
	for _, whom := range []string{fmt.Sprint(far.Number), far.NodeID} {
		w, err := ask(whom)
		must(t, err)
		if len(w.Hops) != 1 || w.Hops[0].NodeID != far.NodeID || w.Hops[0].Number != far.Number || w.Hops[0].RTTMS <= 0 || len(w.Hops[0].Diagnostics) != 0 {
			t.Errorf("to kit %s: %+v", whom, w)
		}
	}
	// Where the registration of a person is kept: by the rule of RFC 6940 §10.3 there is at most one kit before it.
	if w, err := ask(p[1].Account.Number); err != nil || len(w.Hops) > 2 || len(w.Target) != 32 {
		t.Errorf("to a registration: %v, %+v", err, w)
	}
	for whom, why := range map[string]string{
		"two words":              "404",
		strings.Repeat("a", 300): "400",
	} {
		if out, err := trace(whom); err == nil || !strings.Contains(out, why) {
			t.Errorf("%.20q: %v\n%s", whom, err, out)
		}
	}
	if out, err := trace(strings.Repeat("0f", 16)); err == nil || !strings.Contains(out, "does not lead there") {
		t.Errorf("to a Node-ID that nobody has: %v\n%s", err, out)
	}

	// By a newer document, kit 0 may ask how the others are.
	self, err := wire.ParseNodeID(status(t, l.Kits[0]).Kit.NodeID)
	must(t, err)
	m, err := l.Mission().LetDiagnose(self)
	must(t, err)
	must(t, m.Save(l.Kits[0].MissionFile()))
	eventually(t, 30*time.Second, func() error {
		w, err := ask(far.NodeID)
		if err != nil || len(w.Hops) != 1 {
			return fmt.Errorf("way %+v: %w", w, err)
		}
		if d := w.Hops[0].Diagnostics; !strings.HasPrefix(d["SOFTWARE_VERSION"], "fieldkit ") || d["ROUTING_TABLE_SIZE"] != "2" || d["MEMORY_FOOTPRINT"] == "" {
			return fmt.Errorf("diagnostics %v", d)
		}
		return nil
	})
	out, err := trace(far.NodeID)
	must(t, err)
	if !strings.Contains(out, "SOFTWARE_VERSION") || !strings.Contains(out, fmt.Sprint(far.Number)) {
		t.Errorf("in words:\n%s", out)
	}
	t.Log("\n" + out)
}

package kit

import (
	"errors"
	"strings"
	"testing"

	"fieldkit/overlay/wire"
	"fieldkit/ui"
)

// A way to whom nobody knows would lead somewhere all the same: some kit is responsible for every name.
func TestTraceTargets(t *testing.T) {
	k := still(t)
	if _, err := k.mission.Load().AddHandset("Anna", 101); err != nil {
		t.Fatal(err)
	}
	for whom, why := range map[string]string{
		"103":       "Node-ID",             // no such kit
		"10199":     "neither a kit",       // nor account
		"nobody":    "neither a kit",       //
		"two words": "nobody of that name", //
	} {
		if _, err := k.traceTarget(nil, whom); !errors.Is(err, ui.ErrNoTarget) || !strings.Contains(err.Error(), why) {
			t.Errorf("%s: %v, want %q", whom, err, why)
		}
	}
	id := k.id.NodeID()
	if d, err := k.traceTarget(nil, id.String()); err != nil || d.Type != wire.DestNode || d.Node != id {
		t.Errorf("a Node-ID: %+v, %v", d, err)
	}
}

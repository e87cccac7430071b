package kit

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"fieldkit/firmware/mission"
	"fieldkit/overlay/node"
	"fieldkit/overlay/sipusage"
	"fieldkit/overlay/wire"
	"fieldkit/ui"
)

// trace follows the way of a message through the overlay (RFC 7851 §4.3), for who looks for what is wrong in the field:
// to a kit, by its Node-ID, number or name, or to where a person's registration is kept, by number or name.
func (k *Kit) trace(ctx context.Context, to string) (ui.Trace, error) {
	n := k.overlay.node.Load()
	if n == nil {
		return ui.Trace{}, fmt.Errorf("%w: %w", ui.ErrNotNow, errNotRunning)
	}
	dest, err := k.traceTarget(n, to)
	if err != nil {
		return ui.Trace{}, err
	}
	t := ui.Trace{To: to, Hops: []ui.Hop{}}
	if t.Target = dest.Node.String(); dest.Type == wire.DestResource {
		t.Target = fmt.Sprintf("%x", []byte(dest.Resource))
	}
	hops, err := n.PathTrack(ctx, dest, n.MayAsk())
	if err != nil {
		t.Error = err.Error()
	}
	seen := k.announced(time.Now())
	for _, h := range hops {
		hop := ui.Hop{NodeID: h.Peer.String(), RTTMS: ms(h.RTT), Diagnostics: diagnosticsOf(h.Response)}
		if s := seen[hop.NodeID]; s != nil {
			hop.Number, hop.Name = s.Number, s.Name
		}
		t.Hops = append(t.Hops, hop)
	}
	return t, nil
}

// traceTarget is where a message for whom would go.
func (k *Kit) traceTarget(n *node.Node, whom string) (wire.Destination, error) {
	if id, err := wire.ParseNodeID(whom); err == nil {
		return wire.ToNode(id), nil
	}
	mine := k.announcement()
	o := &k.overlay
	o.mu.Lock()
	for key, s := range o.seen {
		if s.peer.Overlay == mine.Overlay && (strconv.Itoa(int(s.peer.Number)) == whom || strings.EqualFold(s.peer.Name, whom)) {
			if id, err := wire.ParseNodeID(key.node); err == nil {
				o.mu.Unlock()
				return wire.ToNode(id), nil
			}
		}
	}
	o.mu.Unlock()
	m := k.mission.Load()
	if n, err := strconv.Atoi(whom); err == nil && len(whom) == 3 && n > 0 {
		// Nobody's number is that short. A way to whoever keeps what nobody stored would look like one to the kit.
		return wire.Destination{}, fmt.Errorf("%w: no kit %d announces itself here; its Node-ID does as well", ui.ErrNoTarget, n)
	}
	if !strings.Contains(whom, "@") && !slices.ContainsFunc(m.Handsets, func(h mission.Handset) bool {
		return h.Number == whom || strings.EqualFold(h.Name, whom)
	}) {
		return wire.Destination{}, fmt.Errorf("%w: neither a kit that announces itself here, nor an account of the mission file as this kit has it", ui.ErrNoTarget)
	}
	aor := whom
	if !strings.Contains(aor, "@") {
		aor += "@" + m.Overlay
	}
	aor, err := sipusage.Canonical(aor)
	if err != nil {
		return wire.Destination{}, fmt.Errorf("%w: %w", ui.ErrNoTarget, err)
	}
	return wire.ToResource(n.ResourceID(aor)), nil
}

// diagnosticsOf names what a kit told of itself.
func diagnosticsOf(r wire.DiagnosticsResponse) map[string]string {
	var m map[string]string
	for _, i := range r.Info {
		v, err := i.Value()
		if err != nil {
			continue
		}
		if m == nil {
			m = map[string]string{}
		}
		switch {
		case v.Text != "":
			m[i.Kind.String()] = v.Text
		case len(v.Messages) > 0:
			var sent, received uint64
			for _, e := range v.Messages {
				sent, received = sent+e.Sent, received+e.Received
			}
			m[i.Kind.String()] = fmt.Sprintf("%d sent, %d received", sent, received)
		case len(v.Instances) > 0:
			var count uint64
			for _, e := range v.Instances {
				count += e.Instances
			}
			m[i.Kind.String()] = strconv.FormatUint(count, 10)
		default:
			m[i.Kind.String()] = strconv.FormatUint(v.Number, 10)
		}
	}
	return m
}

// diagnostics is what the kit tells of itself besides what its overlay peer knows (RFC 7851 §5.3).
func (k *Kit) diagnostics(kind wire.DiagnosticKind) (wire.DiagnosticValue, bool) {
	switch kind {
	case wire.DiagSoftwareVersion:
		return wire.DiagnosticValue{Text: "fieldkit " + Version}, true
	case wire.DiagMachineUptime:
		up := machineUptime()
		return wire.DiagnosticValue{Number: uint64(up.Seconds())}, up > 0
	case wire.DiagMemoryFootprint:
		rss := residentMemory()
		return wire.DiagnosticValue{Number: uint64(rss) >> 10}, rss > 0
	}
	return wire.DiagnosticValue{}, false
}

package kit

import (
	"cmp"
	"context"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	"fieldkit/firmware/health"
	"fieldkit/sip/agent"
	"fieldkit/sip/media"
	"fieldkit/ui"
)

// Status is the whole picture of the kit now.
func (k *Kit) Status() ui.Status {
	now := time.Now()
	m := k.mission.Load()
	s := ui.Status{
		Kit: ui.Kit{
			NodeID: k.id.NodeID().String(), Number: k.number, Name: k.name, Mission: m.Name, Overlay: m.Overlay,
			Founded: m.Founded, Version: Version, UptimeS: seconds(now.Sub(k.started)),
			RSSBytes: residentMemory(), Goroutines: runtime.NumGoroutine(),
			SIP: k.cfg.Handset.Address.String() + ":" + strconv.Itoa(int(k.cfg.SIP.Port)),
		},
		Ring: []string{k.id.NodeID().String()}, Kits: []ui.Neighbour{}, Handsets: []ui.Handset{}, Calls: []ui.Call{},
		Health: checks(k.health.Snapshot()), Board: k.lights.status(), Boot: k.bootStatus(), Counters: []ui.Counter{},
	}
	s.Pairing = k.pairingStatus()
	s.Counters = append(s.Counters, counters("pairing ", k.pairing.pairer.Stats())...)
	k.overlayStatus(&s, now)
	k.telephonyStatus(&s, now)
	k.clockStatus(&s)
	k.updateStatus(&s)
	k.accessStatus(&s)
	k.networkStatus(&s)
	k.linksStatus(&s)
	return s
}

func (k *Kit) telephonyStatus(s *ui.Status, now time.Time) {
	a := k.telephony.agent.Load()
	if a == nil {
		return
	}
	t := a.Snapshot()
	here := map[string]bool{}
	published := k.published()
	for _, h := range t.Handsets {
		here[h.Number] = true
		s.Handsets = append(s.Handsets, ui.Handset{
			Name: h.Name, Number: h.Number, Contact: h.Contact, Transport: h.Transport, Registered: true,
			Published: published[h.Number+"@"+s.Kit.Overlay],
			SinceS:    seconds(now.Sub(h.Since)), ExpiresS: seconds(h.Expires.Sub(now)),
		})
	}
	for _, h := range k.mission.Load().Handsets {
		if !here[h.Number] {
			s.Handsets = append(s.Handsets, ui.Handset{Name: h.Name, Number: h.Number})
		}
	}
	slices.SortStableFunc(s.Handsets, func(x, y ui.Handset) int { return cmp.Compare(x.Number, y.Number) })
	for _, c := range t.Calls {
		s.Calls = append(s.Calls, call(c, now))
	}
	s.Counters = append(s.Counters, counters("sip ", t.Stats)...)
	if r := k.telephony.relay.Load(); r != nil {
		s.Counters = append(s.Counters, counters("media ", r.Stats())...)
	}
}

// published are the addresses-of-record that other kits can find here.
func (k *Kit) published() map[string]bool {
	r := map[string]bool{}
	u := k.overlay.usage.Load()
	if u == nil {
		return r
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	stored, err := u.Stored(ctx)
	if err != nil {
		return r
	}
	for _, aor := range stored {
		r[aor] = true
	}
	return r
}

func call(c agent.Call, now time.Time) ui.Call {
	r := ui.Call{ID: c.Media.ID, From: c.From, To: c.To, State: c.State, SinceS: seconds(now.Sub(c.Since)), SetupMS: ms(c.Setup), Media: []ui.Stream{}}
	for _, from := range c.Media.Legs {
		if !from.Connected {
			continue
		}
		for _, to := range c.Media.Legs {
			if to.Name != from.Name && to.Connected {
				r.Media = append(r.Media, ui.Stream{
					From: who(c, from), To: who(c, to), Packets: from.Received.Packets, Bytes: from.Received.Bytes,
					Lost: from.Received.Lost, JitterMS: from.Received.Jitter,
				})
			}
		}
	}
	return r
}

// who is the person behind a leg: the telephony names the caller's leg, and every other one is the callee's.
func who(c agent.Call, leg media.LegStats) string {
	if leg.Name == "caller" {
		return c.From
	}
	return c.To
}

// checks lists the leaves of the health tree, the worst first.
func checks(root health.Node) []ui.Check {
	r := []ui.Check{}
	var walk func(path string, n health.Node)
	walk = func(path string, n health.Node) {
		if len(n.Checks) == 0 && path != "" {
			r = append(r, ui.Check{Name: path, State: n.State.String(), Cause: n.Cause, SinceS: n.Seconds})
		}
		for _, c := range n.Checks {
			walk(strings.TrimPrefix(path+"/"+c.Name, "/"), c)
		}
	}
	walk("", root)
	worst := map[string]int{"fault": 0, "warn": 1, "ok": 2}
	slices.SortStableFunc(r, func(x, y ui.Check) int {
		return cmp.Or(cmp.Compare(worst[x.State], worst[y.State]), cmp.Compare(x.Name, y.Name))
	})
	return r
}

func seconds(d time.Duration) float64 { return float64(d.Milliseconds()) / 1000 }

func ms(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

// machineUptime is how long the board has been up; 0 where the system does not tell.
func machineUptime() time.Duration {
	b, err := os.ReadFile("/proc/uptime")
	if err != nil {
		return 0
	}
	first, _, _ := strings.Cut(string(b), " ")
	s, err := strconv.ParseFloat(first, 64)
	if err != nil {
		return 0
	}
	return time.Duration(s * float64(time.Second))
}

// residentMemory is what the process has in memory, in bytes; 0 where the system does not tell.
func residentMemory() int64 {
	b, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		return 0
	}
	fields := strings.Fields(string(b))
	if len(fields) < 2 {
		return 0
	}
	pages, err := strconv.ParseInt(fields[1], 10, 64)
	if err != nil {
		return 0
	}
	return pages * int64(os.Getpagesize())
}

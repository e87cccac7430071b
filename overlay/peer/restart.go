package peer

import (
	"time"

	"fieldkit/overlay/wire"
)

// restartSlack is how much later than others an Update may be that says how long its sender has been up: all of its
// transmissions (RFC 6940 §6.2.1), and the second that the uptime is rounded down to.
const restartSlack = requestLifetime + time.Second

// upSince notes when a member began, by the uptime in its Update. One that has begun anew since it was last heard of,
// too quickly for its silence to be noticed, has lost what it stored: it is to be given all of it again.
func (p *Peer) upSince(id wire.NodeID, uptime uint32) {
	began := p.now.Add(-time.Duration(uptime) * time.Second)
	old, ok := p.repl.began[id]
	if ok && !began.After(old.Add(restartSlack)) {
		return
	}
	if p.repl.began == nil {
		p.repl.began = make(map[wire.NodeID]time.Time)
	}
	if ok {
		p.count.Restarts++
		p.store.Forget(id)
		p.replicateSoon(restartPause)
	} else if len(p.repl.began) >= 2*MaxLinks {
		for other := range p.repl.began {
			if len(p.conns.byPeer[other]) == 0 {
				delete(p.repl.began, other)
			}
		}
	}
	p.repl.began[id] = began
}

// restartPause lets a ring take a peer back before it is given what it held.
const restartPause = 2 * time.Second

package agent

import (
	"errors"
	"net/netip"

	"fieldkit/sip/media"
	"fieldkit/sip/proxy"
)

// mediaRelay is what the agent wants of package media; tests have another.
type mediaRelay interface {
	NewCall(id string) (mediaCall, error)
	TrunkPacket(t proxy.Trunk, b []byte)
}

type mediaCall interface {
	HandsetLeg(name string, signalling netip.Addr) (mediaLeg, error)
	TrunkLeg(name string, t proxy.Trunk) (mediaLeg, error)
	Rewrite(from, to mediaLeg, sdp []byte) ([]byte, error)
	Connect(a, b mediaLeg)
	Stats() media.CallStats
	Close()
}

type mediaLeg any

type relay struct{ r *media.Relay }

func (r relay) NewCall(id string) (mediaCall, error) {
	c, err := r.r.NewCall(id)
	if err != nil {
		return nil, err
	}
	return relayCall{c}, nil
}

func (r relay) TrunkPacket(t proxy.Trunk, b []byte) { r.r.TrunkPacket(t, b) }

type relayCall struct{ *media.Call }

func (c relayCall) HandsetLeg(name string, signalling netip.Addr) (mediaLeg, error) {
	return c.Call.HandsetLeg(name, signalling)
}

func (c relayCall) TrunkLeg(name string, t proxy.Trunk) (mediaLeg, error) {
	return c.Call.TrunkLeg(name, t)
}

func (c relayCall) Rewrite(from, to mediaLeg, sdp []byte) ([]byte, error) {
	return c.Call.Rewrite(from.(*media.Leg), to.(*media.Leg), sdp)
}

func (c relayCall) Connect(a, b mediaLeg) { c.Call.Connect(a.(*media.Leg), b.(*media.Leg)) }

// mediaStatus is the response for what the relay refuses.
func mediaStatus(err error) int {
	switch {
	case errors.Is(err, media.ErrPorts), errors.Is(err, media.ErrBusy), errors.Is(err, media.ErrKeying):
		return 503
	case errors.Is(err, media.ErrSecureOnly), errors.Is(err, media.ErrNoAudio):
		return 488
	case errors.Is(err, media.ErrSDP):
		return 400
	}
	return 500
}

package phone

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/pion/sdp/v3"
)

// errNotAcceptable maps to 488.
var errNotAcceptable = errors.New("no audio both sides can do")

var codecNames = map[string]string{"0": "PCMU/8000", "8": "PCMA/8000"}

// describe writes a session description with the given payload types. version
// counts the descriptions of one session (RFC 3264 §8).
func (s *session) describe(version uint64, formats []string, direction string) []byte {
	family := "IP4"
	if s.local.Is6() {
		family = "IP6"
	}
	address := s.local.WithZone("").String()
	audio := &sdp.MediaDescription{
		MediaName: sdp.MediaName{Media: "audio", Port: sdp.RangedPort{Value: int(s.port())}, Protos: []string{"RTP", "AVP"}, Formats: formats},
	}
	for _, f := range formats {
		audio = audio.WithValueAttribute("rtpmap", f+" "+codecNames[f])
	}
	audio = audio.WithValueAttribute("ptime", strconv.Itoa(int(packetTime.Milliseconds()))).WithPropertyAttribute(direction)
	d := sdp.SessionDescription{
		Origin:                sdp.Origin{Username: "-", SessionID: uint64(s.ssrc), SessionVersion: version, NetworkType: "IN", AddressType: family, UnicastAddress: address},
		SessionName:           "call",
		ConnectionInformation: &sdp.ConnectionInformation{NetworkType: "IN", AddressType: family, Address: &sdp.Address{Address: address}},
		TimeDescriptions:      []sdp.TimeDescription{{}},
		MediaDescriptions:     []*sdp.MediaDescription{audio},
	}
	b, err := d.Marshal()
	if err != nil {
		return nil // cannot be: every field is ours
	}
	return b
}

// offer is both G.711 laws; no codec of ours is better than the other.
func (s *session) offer(version uint64) []byte {
	return s.describe(version, []string{"0", "8"}, "sendrecv")
}

// answer takes an offer and returns the answer to it.
func (s *session) answer(version uint64, offer []byte) ([]byte, error) {
	f, direction, others, err := readDescription(offer)
	if err != nil {
		return nil, err
	}
	s.far.Store(f)
	reply := map[string]string{"sendonly": "recvonly", "recvonly": "sendonly", "inactive": "inactive"}[direction]
	if reply == "" {
		reply = "sendrecv"
	}
	body := s.describe(version, []string{strconv.Itoa(int(f.payloadType))}, reply)
	// Each of the offer's lines has one in the answer, in its place (RFC 3264 §6).
	var d sdp.SessionDescription
	if err := d.Unmarshal(body); err != nil {
		return nil, fmt.Errorf("own description: %w", err)
	}
	audio := d.MediaDescriptions[0]
	d.MediaDescriptions = nil
	for _, m := range others {
		if m == nil {
			d.MediaDescriptions = append(d.MediaDescriptions, audio)
			continue
		}
		name := m.MediaName
		name.Port = sdp.RangedPort{}
		d.MediaDescriptions = append(d.MediaDescriptions, &sdp.MediaDescription{MediaName: name})
	}
	return d.Marshal()
}

// accept takes the answer to our offer.
func (s *session) accept(answer []byte) error {
	f, _, _, err := readDescription(answer)
	if err != nil {
		return err
	}
	s.far.Store(f)
	return nil
}

// readDescription finds the audio we can do. others has the lines of the
// description in order, nil in the place of that audio.
func readDescription(body []byte) (f *far, direction string, others []*sdp.MediaDescription, err error) {
	var d sdp.SessionDescription
	if err := d.Unmarshal(body); err != nil {
		return nil, "", nil, fmt.Errorf("session description: %w", err)
	}
	others = slices.Clone(d.MediaDescriptions)
	for i, m := range d.MediaDescriptions {
		at := slices.IndexFunc(m.MediaName.Formats, func(f string) bool { return codecNames[f] != "" })
		if m.MediaName.Media != "audio" || m.MediaName.Port.Value == 0 || at < 0 || strings.Join(m.MediaName.Protos, "/") != "RTP/AVP" {
			continue
		}
		c := m.ConnectionInformation
		if c == nil {
			c = d.ConnectionInformation
		}
		if c == nil || c.Address == nil {
			return nil, "", nil, fmt.Errorf("%w: no address", errNotAcceptable)
		}
		addr, err := netip.ParseAddr(c.Address.Address)
		port := m.MediaName.Port.Value
		if err != nil || port < 1 || port > 65534 {
			return nil, "", nil, fmt.Errorf("%w: address %q port %d", errNotAcceptable, c.Address.Address, port)
		}
		direction = "sendrecv"
		for _, name := range []string{"sendrecv", "sendonly", "recvonly", "inactive"} {
			if _, ok := d.Attribute(name); ok {
				direction = name
			}
		}
		for _, name := range []string{"sendrecv", "sendonly", "recvonly", "inactive"} {
			if _, ok := m.Attribute(name); ok {
				direction = name
			}
		}
		control := port + 1
		if v, ok := m.Attribute("rtcp"); ok { // RFC 3605
			digits, _, _ := strings.Cut(v, " ")
			if n, err := strconv.ParseUint(digits, 10, 16); err == nil && n > 0 {
				control = int(n)
			}
		}
		payloadType := uint8(pcmu)
		if m.MediaName.Formats[at] == "8" {
			payloadType = pcma
		}
		others[i] = nil
		return &far{
			rtp: netip.AddrPortFrom(addr, uint16(port)), rtcp: netip.AddrPortFrom(addr, uint16(control)), payloadType: payloadType,
			send: (direction == "sendrecv" || direction == "recvonly") && !addr.IsUnspecified(),
		}, direction, others, nil
	}
	return nil, "", nil, errNotAcceptable
}

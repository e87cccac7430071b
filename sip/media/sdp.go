package media

import (
	"bytes"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// Bounds of a session description; browsers' offers have about 6 KB.
const (
	maxSDP      = 32 << 10
	maxSDPLines = 600
	maxMedia    = 16
	maxCNAME    = 255 // RFC 3550 §6.5
)

const (
	trunkPort = 9 // discard
	// trunkConnection is the discard address (RFC 6666): nobody sends there.
	trunkConnection = "IN IP6 100::1"
)

// description is a session description as lines: what the relay does not own
// goes out byte for byte and in its place. (A parser that builds a model and
// prints it would refuse lines it has no field for, like m=image 0 udptl t38.)
type description struct {
	session []string
	media   [][]string // each starts with its m= line
}

// mediaLine is an m= line taken apart.
type mediaLine struct {
	kind    string
	port    uint16
	proto   string
	formats string
}

// remote is what a leg's own SDP says.
type remote struct {
	active   bool // there is a stream
	hold     bool // c=0.0.0.0: nothing is to be sent
	mux      bool
	port     uint16
	rtcpPort uint16
	ssrc     uint32 // trunk: what the far kit sends
	cname    string
	clocks   *clockTable
}

// local is what SDP sent out of a leg says of this side.
type local struct {
	trunk      bool
	connection string // value of c=
	port       uint16
	rtcpPort   uint16
	ssrc       uint32
	cname      string
}

func parseDescription(b []byte) (*description, error) {
	if len(b) > maxSDP {
		return nil, fmt.Errorf("%w: %d bytes", ErrSDP, len(b))
	}
	if bytes.IndexByte(b, 0) >= 0 {
		return nil, fmt.Errorf("%w: NUL in it", ErrSDP)
	}
	d := &description{}
	lines := 0
	for line := range strings.Lines(string(b)) {
		line = strings.TrimRight(line, "\r\n")
		if line == "" {
			continue // trailing empty lines are seen from phones
		}
		if lines++; lines > maxSDPLines {
			return nil, fmt.Errorf("%w: over %d lines", ErrSDP, maxSDPLines)
		}
		switch {
		case len(line) < 2 || line[1] != '=' || line[0] < 'a' || line[0] > 'z' || strings.ContainsRune(line, '\r'):
			return nil, fmt.Errorf("%w: line %d is not type=value", ErrSDP, lines)
		case lines == 1 && line != "v=0":
			return nil, fmt.Errorf("%w: no v=0 at its head", ErrSDP)
		case line[0] == 'm':
			if len(d.media) == maxMedia {
				return nil, fmt.Errorf("%w: over %d media", ErrSDP, maxMedia)
			}
			d.media = append(d.media, []string{line})
		case len(d.media) > 0:
			last := len(d.media) - 1
			d.media[last] = append(d.media[last], line)
		default:
			d.session = append(d.session, line)
		}
	}
	// "Some lines in each description are required" (RFC 8866 §5): v, o, s and t.
	for _, required := range "vost" {
		if !slices.ContainsFunc(d.session, func(l string) bool { return rune(l[0]) == required }) {
			return nil, fmt.Errorf("%w: no %c= line", ErrSDP, required)
		}
	}
	return d, nil
}

func parseMediaLine(line string) (mediaLine, error) {
	f := strings.Fields(line[2:])
	if len(f) < 4 {
		return mediaLine{}, fmt.Errorf("%w: short m= line", ErrSDP)
	}
	digits, _, _ := strings.Cut(f[1], "/")
	port, err := strconv.ParseUint(digits, 10, 16)
	if err != nil {
		return mediaLine{}, fmt.Errorf("%w: port in an m= line", ErrSDP)
	}
	return mediaLine{kind: f[0], port: uint16(port), proto: f[2], formats: strings.Join(f[3:], " ")}, nil
}

func (m mediaLine) line() string {
	return "m=" + m.kind + " " + strconv.Itoa(int(m.port)) + " " + m.proto + " " + m.formats
}

// isSecure: some profile with SRTP (RFC 3711, RFC 5124, RFC 5764).
func isSecure(proto string) bool { return strings.Contains(proto, "SAVP") }

// usable says whether the relay can carry the profile on that side.
func usable(proto string, trunk bool) bool {
	if trunk {
		return proto == "UDP/TLS/RTP/SAVP" || proto == "UDP/TLS/RTP/SAVPF"
	}
	return proto == "RTP/AVP" || proto == "RTP/AVPF"
}

// crossed is a usable profile as it is called on the side it goes to.
func crossed(proto string, trunk bool) string {
	feedback := strings.HasSuffix(proto, "F")
	switch {
	case trunk && feedback:
		return "UDP/TLS/RTP/SAVPF"
	case trunk:
		return "UDP/TLS/RTP/SAVP"
	case feedback:
		return "RTP/AVPF"
	}
	return "RTP/AVP"
}

// choose picks the m= line to relay: the one relayed before (lines keep their
// place, RFC 3264 §8) if it is still on, else the first that can be. -1 when
// the audio is refused or switched off.
func (d *description) choose(before int, trunk bool) (int, error) {
	first, secure, off, other := -1, false, false, false
	for i, lines := range d.media {
		m, err := parseMediaLine(lines[0])
		if err != nil {
			return 0, err
		}
		switch {
		case m.kind != "audio":
		case m.port == 0:
			off = true
		case usable(m.proto, trunk):
			if i == before {
				return i, nil
			}
			if first < 0 {
				first = i
			}
		case isSecure(m.proto):
			secure = true
		default:
			other = true
		}
	}
	switch {
	case first >= 0:
		return first, nil
	case secure:
		return 0, ErrSecureOnly
	case off && !other:
		return -1, nil
	}
	return 0, ErrNoAudio
}

// learn reads the chosen m= line.
func (d *description) learn(line int, trunk bool) (remote, error) {
	lines := d.media[line]
	m, err := parseMediaLine(lines[0])
	if err != nil {
		return remote{}, err
	}
	r := remote{active: true, port: m.port, clocks: learnClocks(lines)}
	c, ok := field(lines, 'c')
	if !ok {
		if c, ok = field(d.session, 'c'); !ok {
			return remote{}, fmt.Errorf("%w: no c= line", ErrSDP)
		}
	}
	if r.hold, err = isHold(c); err != nil {
		return remote{}, err
	}
	_, r.mux = attribute(lines, "rtcp-mux")
	r.rtcpPort = m.port + 1
	if m.port == 65535 {
		r.rtcpPort = 0
	}
	if v, ok := attribute(lines, "rtcp"); ok {
		// RFC 3605: port [nettype addrtype address]; the address is no more believed than that in c=.
		digits, _, _ := strings.Cut(v, " ")
		port, err := strconv.ParseUint(digits, 10, 16)
		if err != nil {
			return remote{}, fmt.Errorf("%w: a=rtcp", ErrSDP)
		}
		r.rtcpPort = uint16(port)
	}
	if trunk {
		if r.ssrc, r.cname, err = learnSource(lines); err != nil {
			return remote{}, err
		}
	}
	return r, nil
}

// isHold: "0.0.0.0" is how RFC 2543 held a call, and RFC 3264 §8.4 keeps it.
func isHold(c string) (bool, error) {
	f := strings.Fields(c)
	if len(f) != 3 || f[0] != "IN" || f[1] != "IP4" && f[1] != "IP6" {
		return false, fmt.Errorf("%w: c= line", ErrSDP)
	}
	host, _, _ := strings.Cut(f[2], "/")
	addr, _ := netip.ParseAddr(host) // may be a name: an address that is not believed anyway
	return addr.IsValid() && addr.IsUnspecified(), nil
}

func learnSource(lines []string) (uint32, string, error) {
	v, ok := attribute(lines, "ssrc")
	if !ok {
		return 0, "", fmt.Errorf("%w: no a=ssrc on a trunk", ErrSDP)
	}
	digits, rest, _ := strings.Cut(v, " ")
	ssrc, err := strconv.ParseUint(digits, 10, 32)
	if err != nil {
		return 0, "", fmt.Errorf("%w: a=ssrc", ErrSDP)
	}
	cname, ok := strings.CutPrefix(rest, "cname:")
	if !ok || cname == "" || len(cname) > maxCNAME || strings.ContainsFunc(cname, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return 0, "", fmt.Errorf("%w: cname of a=ssrc", ErrSDP)
	}
	return uint32(ssrc), cname, nil
}

func learnClocks(lines []string) *clockTable {
	t := defaultClocks
	for _, l := range lines {
		v, ok := strings.CutPrefix(l, "a=rtpmap:")
		if !ok {
			continue
		}
		digits, codec, _ := strings.Cut(v, " ")
		pt, err := strconv.ParseUint(digits, 10, 7)
		parts := strings.Split(strings.TrimSpace(codec), "/")
		if err != nil || len(parts) < 2 {
			continue
		}
		if strings.EqualFold(parts[0], "telephone-event") {
			t[pt] = 0
		} else if rate, err := strconv.ParseUint(parts[1], 10, 20); err == nil {
			t[pt] = uint32(rate)
		}
	}
	return &t
}

// ours are attributes that set up a transport: each side of a relay has its own,
// so none crosses it. (rtcp, rtcp-mux and ssrc are dealt with one by one.)
var ours = map[string]bool{
	"candidate": true, "remote-candidates": true, "end-of-candidates": true, "ice-ufrag": true, "ice-pwd": true, // RFC 8839
	"ice-options": true, "ice-lite": true, "ice-mismatch": true, "ice-pacing": true,
	"fingerprint": true, "setup": true, "connection": true, "tls-id": true, "dtls-id": true, "identity": true, // RFC 8122, RFC 8842
	"crypto": true, "key-mgmt": true, "zrtp-hash": true, // RFC 4568, RFC 4567, RFC 6189
}

// rewrite prints the description for the other side: the chosen line, which may
// be -1, points to to, all others are refused with port 0 (RFC 3264 §6).
func (d *description) rewrite(line int, from remote, to local) []byte {
	connection := to.connection
	if from.hold {
		connection = "IN IP4 0.0.0.0"
		if !to.trunk && strings.HasPrefix(to.connection, "IN IP6") {
			connection = "IN IP6 ::"
		}
	}
	var out bytes.Buffer
	put := func(line string) { out.WriteString(line); out.WriteString("\r\n") }
	for _, l := range d.session {
		switch {
		case l[0] == 'c':
			put("c=" + connection)
		case !keyed(l) && !strings.HasPrefix(l, "a=group:BUNDLE"):
			put(l)
		}
	}
	for i, lines := range d.media {
		m, err := parseMediaLine(lines[0])
		if err != nil {
			continue // choose has parsed every one
		}
		if i != line {
			m.port = 0
		} else {
			m.port, m.proto = to.port, crossed(m.proto, to.trunk)
		}
		put(m.line())
		for _, l := range lines[1:] {
			name, value, _ := strings.Cut(l, ":")
			switch {
			case l[0] == 'c':
				put("c=" + connection)
			case keyed(l):
			case name == "a=rtcp":
				if i == line {
					put("a=rtcp:" + strconv.Itoa(int(rtcpPort(value, from, to))))
				}
			case (name == "a=ssrc" || name == "a=ssrc-group") && (to.trunk || from.ssrc != 0 || from.cname != ""):
			default:
				put(l)
			}
		}
		if i == line && to.trunk {
			put(fmt.Sprintf("a=ssrc:%d cname:%s", to.ssrc, to.cname))
		}
	}
	return out.Bytes()
}

// rtcpPort keeps a=rtcp saying "the RTP port" where it said so (RFC 8834, §4.5 of RFC 5761).
func rtcpPort(value string, from remote, to local) uint16 {
	digits, _, _ := strings.Cut(value, " ")
	if from.mux && digits == strconv.Itoa(int(from.port)) {
		return to.port
	}
	return to.rtcpPort
}

// keyed says whether a line keys or connects a transport.
func keyed(line string) bool {
	if line[0] == 'k' {
		return true
	}
	if line[0] != 'a' {
		return false
	}
	name, _, _ := strings.Cut(line[2:], ":")
	return ours[name]
}

func field(lines []string, kind byte) (string, bool) {
	for _, l := range lines {
		if l[0] == kind {
			return l[2:], true
		}
	}
	return "", false
}

func attribute(lines []string, name string) (string, bool) {
	for _, l := range lines {
		n, v, _ := strings.Cut(l, ":")
		if len(n) == len(name)+2 && n[:2] == "a=" && n[2:] == name {
			return v, true
		}
	}
	return "", false
}

// connectionOf is the value of c= for an address.
func connectionOf(a netip.Addr) string {
	if a.Is4() {
		return "IN IP4 " + a.String()
	}
	return "IN IP6 " + a.WithZone("").String()
}

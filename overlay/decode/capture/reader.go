package capture

import (
	"bufio"
	"container/list"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"time"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
	"github.com/gopacket/gopacket/pcapgo"

	"fieldkit/overlay/wire"
)

// ErrCapture is a file that is no capture, or one that ends in the middle.
var ErrCapture = errors.New("unreadable capture")

// maxFlows bounds the connections that are followed at a time.
const maxFlows = 4096

// Packet is a frame or message out of the capture.
type Packet struct {
	Number   uint64 // of the captured packet that completed it, from 1
	Time     time.Time
	From, To netip.AddrPort
	Link     string // "udp", "tcp", "dtls" or "tls"
	Stream   uint64 // the same for what went the same way over the same connection
	Data     []byte
	// Fault says why a stream cannot be read on. Data is then what it went wrong at, if there is something to show.
	Fault *wire.SyntaxError
}

// Stats counts what a Reader saw.
type Stats struct {
	Packets  uint64 // captured packets
	Sessions uint64 // handshakes of DTLS and TLS
	Keyed    uint64 // of these, ones whose secret is in the key log, with a cipher suite that is known
	Locked   uint64 // protected records without a secret
	Failed   uint64 // protected records that the secret does not open
	Other    uint64 // datagrams, records and streams that are not RELOAD, without those that only carry others
	Broken   uint64 // streams with a hole, or that are not what they should be
	Cut      uint64 // packets of which the capture has only the beginning, and IP fragments
	Evicted  uint64 // connections forgotten for newer ones
}

// Reader reads a capture.
type Reader struct {
	source source
	blocks *blocks // in front of source, if it is pcapng
	keys   KeyLog
	flows  map[flowKey]*list.Element
	recent *list.List // of *flow, the one last used in front
	nextID uint64
	queue  []Packet
	stats  Stats
	now    Packet // of the captured packet that is being read: number, time, addresses
}

// source is what pcapgo's readers have in common.
type source interface {
	ReadPacketData() ([]byte, gopacket.CaptureInfo, error)
	LinkType() layers.LinkType
}

// NewReader begins to read a pcap or pcapng file. Without keys, and without a key log in the file itself, only what is not
// protected is found.
func NewReader(r io.Reader, keys KeyLog) (*Reader, error) {
	buffered := bufio.NewReaderSize(r, 1<<16)
	magic, err := buffered.Peek(4)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrCapture, err)
	}
	c := &Reader{keys: KeyLog{}, flows: map[flowKey]*list.Element{}, recent: list.New()}
	c.addKeys(keys)
	if binary.BigEndian.Uint32(magic) == blockSection {
		c.blocks = &blocks{r: buffered, secrets: c.addKeys}
		c.source, err = pcapgo.NewNgReader(c.blocks, pcapgo.NgReaderOptions{WantMixedLinkType: true, SkipUnknownVersion: true})
	} else if old, oldErr := pcapgo.NewReader(buffered); oldErr != nil {
		err = oldErr
	} else {
		old.SetSnaplen(maxPacket)
		c.source = old
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrCapture, err)
	}
	return c, nil
}

// addKeys takes over secrets, up to MaxSecrets in all.
func (r *Reader) addKeys(keys KeyLog) {
	for client, master := range keys {
		if len(r.keys) < MaxSecrets {
			r.keys[client] = master
		}
	}
}

// Stats returns the counters.
func (r *Reader) Stats() Stats { return r.stats }

// Next returns the next frame or message, and io.EOF at the end. Any other error is ErrCapture and final.
func (r *Reader) Next() (Packet, error) {
	for len(r.queue) == 0 {
		data, info, err := r.source.ReadPacketData()
		if errors.Is(err, io.EOF) {
			switch {
			case info.CaptureLength != 0: // a packet was announced
				err = io.ErrUnexpectedEOF
			case r.blocks != nil && r.blocks.err != nil:
				err = r.blocks.err
			default:
				return Packet{}, io.EOF
			}
		}
		if err != nil {
			return Packet{}, fmt.Errorf("%w: after packet %d: %w", ErrCapture, r.stats.Packets, err)
		}
		r.packet(data, info)
	}
	p := r.queue[0]
	r.queue = r.queue[1:]
	return p, nil
}

// packet takes apart one captured packet and queues what it completes.
func (r *Reader) packet(data []byte, info gopacket.CaptureInfo) {
	r.stats.Packets++
	link := r.source.LinkType()
	if len(info.AncillaryData) > 0 {
		if l, ok := info.AncillaryData[0].(layers.LinkType); ok {
			link = l
		}
	}
	p := gopacket.NewPacket(data, link, gopacket.DecodeOptions{Lazy: true, NoCopy: true})
	network, transport := p.NetworkLayer(), p.TransportLayer()
	if network == nil {
		return
	}
	if info.CaptureLength < info.Length || isFragment(network) {
		r.stats.Cut++
		return
	}
	if transport == nil {
		return
	}
	from, ok := netip.AddrFromSlice(network.NetworkFlow().Src().Raw())
	to, ok2 := netip.AddrFromSlice(network.NetworkFlow().Dst().Raw())
	if !ok || !ok2 {
		return
	}
	r.now = Packet{Number: r.stats.Packets, Time: info.Timestamp}
	switch t := transport.(type) {
	case *layers.UDP:
		r.now.From, r.now.To = netip.AddrPortFrom(from, uint16(t.SrcPort)), netip.AddrPortFrom(to, uint16(t.DstPort))
		if len(t.Payload) > 0 {
			f, dir := r.flow(false)
			r.datagram(f, dir, t.Payload)
		}
	case *layers.TCP:
		r.now.From, r.now.To = netip.AddrPortFrom(from, uint16(t.SrcPort)), netip.AddrPortFrom(to, uint16(t.DstPort))
		f, dir := r.flow(true)
		if t.SYN && !t.ACK {
			f = r.renew(f)
		}
		r.segment(f, dir, t)
	}
}

func isFragment(network gopacket.NetworkLayer) bool {
	switch ip := network.(type) {
	case *layers.IPv4:
		return ip.FragOffset != 0 || ip.Flags&layers.IPv4MoreFragments != 0
	case *layers.IPv6:
		return ip.NextHeader == layers.IPProtocolIPv6Fragment
	default:
		return false
	}
}

// flowKey names a connection by its ends, the lesser first.
type flowKey struct {
	tcp  bool
	a, b netip.AddrPort
}

// flow is a connection, and what goes each way: dirs[0] from the lesser end.
type flow struct {
	key    flowKey
	id     uint64
	reload bool // frames were seen
	// Handshakes: one that the server has not answered, and the last two that it has. A datagram sealed before a new
	// handshake may arrive after it.
	asked    *session
	sessions [2]*session
	dirs     [2]stream
	channels map[uint16]netip.AddrPort // of a TURN client, in direction client, at its server
	client   int
}

// flow finds or makes the flow of the packet that is being read.
func (r *Reader) flow(tcp bool) (f *flow, dir int) {
	key := flowKey{tcp: tcp, a: r.now.From, b: r.now.To}
	if key.b.Compare(key.a) < 0 {
		key.a, key.b = key.b, key.a
		dir = 1
	}
	if e, ok := r.flows[key]; ok {
		r.recent.MoveToFront(e)
		return e.Value.(*flow), dir
	}
	if len(r.flows) == maxFlows {
		oldest := r.recent.Remove(r.recent.Back()).(*flow)
		delete(r.flows, oldest.key)
		r.stats.Evicted++
	}
	r.nextID++
	f = &flow{key: key, id: r.nextID}
	r.flows[key] = r.recent.PushFront(f)
	return f, dir
}

// renew is the flow for a new connection between the same ends.
func (r *Reader) renew(f *flow) *flow {
	r.nextID++
	fresh := &flow{key: f.key, id: r.nextID}
	r.flows[f.key].Value = fresh
	return fresh
}

// emit queues a frame or message.
func (r *Reader) emit(f *flow, dir int, link string, data []byte, fault *wire.SyntaxError) {
	p := r.now
	p.Link, p.Stream, p.Data, p.Fault = link, 2*f.id+uint64(dir), data, fault
	r.queue = append(r.queue, p)
}

// hello notes a ClientHello, and derives the keys when the ServerHello answers it.
func (r *Reader) hello(f *flow, dir int, typ byte, body []byte) {
	value, chosen, ok := hello(typ, body)
	switch {
	case !ok:
		return
	case typ == clientHello:
		if current := f.sessions[0]; current == nil || current.random != value { // else a retransmission
			f.asked = &session{client: dir, random: value}
		}
		return
	case f.asked == nil || f.asked.client == dir:
		return
	}
	r.stats.Sessions++
	f.asked.agree(value, chosen, r.keys)
	if f.asked.openers[0] != nil {
		r.stats.Keyed++
	}
	f.sessions[1], f.sessions[0], f.asked = f.sessions[0], f.asked, nil
}

package dhcp

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/mdlayher/packet"
	"golang.org/x/net/bpf"
)

// Server is the shell around a Table. Serve runs it once; Leases, Stats and Full may be called from any goroutine.
type Server struct {
	cfg     Config
	log     *slog.Logger
	changed func()
	now     atomic.Pointer[picture]
}

// picture is what others see of the Table.
type picture struct {
	leases []Lease
	stats  Stats
	full   bool
}

// NewServer checks the configuration. changed is called after leases came or went, by the goroutine of Serve; nil is
// nobody. log may be nil.
func NewServer(cfg Config, changed func(), log *slog.Logger) (*Server, error) {
	if _, err := New(cfg); err != nil {
		return nil, err
	}
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	if changed == nil {
		changed = func() {}
	}
	s := &Server{cfg: cfg, log: log, changed: changed}
	s.now.Store(&picture{leases: []Lease{}})
	return s, nil
}

// Leases are the addresses in use, in their order.
func (s *Server) Leases() []Lease { return s.now.Load().leases }

// Stats are the counts so far.
func (s *Server) Stats() Stats { return s.now.Load().stats }

// Full reports whether a station was refused for want of room within the last minute.
func (s *Server) Full() bool { return s.now.Load().full }

// frame is what came from a station.
type frame struct {
	from MAC
	data []byte
}

const (
	maxFrame   = 1500
	frameQueue = 64 // what more comes while the Table is busy waits in the kernel, which drops it
	lookEvery  = time.Minute
)

// Serve answers on one interface until ctx ends. ready is called once it listens.
func (s *Server) Serve(ctx context.Context, ifname string, ready func()) error {
	t, err := New(s.cfg)
	if err != nil {
		return err
	}
	ifi, err := net.InterfaceByName(ifname)
	if err != nil {
		return fmt.Errorf("handset interface: %w", err)
	}
	if len(ifi.HardwareAddr) != len(MAC{}) {
		return fmt.Errorf("handset interface %s: no hardware address of six bytes", ifname)
	}
	// Nobody reads this socket: it keeps the system from telling a handset that renews that there is no server.
	occupied, err := new(net.ListenConfig).ListenPacket(ctx, "udp4", netip.AddrPortFrom(s.cfg.Server, serverPort).String())
	if err != nil {
		return fmt.Errorf("DHCP port: %w", err)
	}
	defer occupied.Close()
	messages, err := open(ifi, etherIPv4, dhcpFilter)
	if err != nil {
		return err
	}
	defer messages.Close()
	arp, err := open(ifi, etherARP, arpFilter)
	if err != nil {
		return err
	}
	defer arp.Close()

	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stop := context.AfterFunc(ctx, func() { _, _ = messages.Close(), arp.Close() })
	defer stop()
	came, answered := make(chan frame, frameQueue), make(chan frame, frameQueue)
	errs := make([]error, 2)
	var readers sync.WaitGroup
	readers.Go(func() { defer cancel(); errs[0] = read(ctx, messages, came) })
	readers.Go(func() { defer cancel(); errs[1] = read(ctx, arp, answered) })
	ready()
	s.loop(ctx, t, shell{ifi: ifi, server: s.cfg.Server, messages: messages, arp: arp, log: s.log}, came, answered)
	readers.Wait()
	return errors.Join(errs...)
}

func open(ifi *net.Interface, protocol int, filter []bpf.Instruction) (*packet.Conn, error) {
	raw, err := bpf.Assemble(filter)
	if err != nil {
		return nil, fmt.Errorf("packet filter: %w", err)
	}
	c, err := packet.Listen(ifi, packet.Datagram, protocol, &packet.Config{Filter: raw})
	if err != nil {
		return nil, fmt.Errorf("packet socket on %s: %w", ifi.Name, err)
	}
	return c, nil
}

// read hands on what comes until ctx ends.
func read(ctx context.Context, c *packet.Conn, to chan<- frame) error {
	b := make([]byte, maxFrame)
	for {
		n, from, err := c.ReadFrom(b)
		if ctx.Err() != nil {
			return nil //nolint:nilerr // the socket was closed because ctx ended
		}
		if err != nil {
			return fmt.Errorf("handset interface: %w", err)
		}
		a, ok := from.(*packet.Addr)
		if !ok || len(a.HardwareAddr) != len(MAC{}) {
			continue
		}
		select {
		case to <- frame{MAC(a.HardwareAddr), append([]byte(nil), b[:n]...)}:
		case <-ctx.Done():
			return nil
		}
	}
}

// loop owns the Table.
func (s *Server) loop(ctx context.Context, t *Table, out shell, came, answered <-chan frame) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		d := lookEvery
		if at := t.Deadline(); !at.IsZero() {
			d = max(min(d, time.Until(at)), 0)
		}
		timer.Reset(d)
		select {
		case <-ctx.Done():
			return
		case f := <-came:
			b, err := payload(f.data)
			if err != nil {
				continue
			}
			m, err := dhcpv4.FromBytes(b)
			if err != nil {
				s.log.Debug("DHCP message not understood", "from", f.from, "err", err)
				continue
			}
			out.do(t.Receive(time.Now(), f.from, m))
		case f := <-answered:
			mac, addr, ok := arpSender(f.data)
			if !ok || mac != f.from { // who speaks for others is no witness
				continue
			}
			next := t.InUse(time.Now(), addr, mac)
			if len(next) == 0 {
				continue // most of what stations ask each other has nothing to do with leases
			}
			out.do(next)
		case <-timer.C:
			out.do(t.Advance(time.Now()))
		}
		s.show(t)
	}
}

// show makes the picture that others see, and tells when the leases changed.
func (s *Server) show(t *Table) {
	before, now := s.now.Load(), time.Now()
	p := &picture{leases: t.Leases(), stats: t.Stats(), full: t.Full(now)}
	s.now.Store(p)
	same := len(before.leases) == len(p.leases)
	for i := 0; same && i < len(p.leases); i++ {
		same = before.leases[i].Addr == p.leases[i].Addr && before.leases[i].Name == p.leases[i].Name
	}
	if !same {
		s.changed()
	}
}

// shell sends what the Table wants sent.
type shell struct {
	ifi           *net.Interface
	server        netip.Addr
	messages, arp *packet.Conn
	log           *slog.Logger
}

func (o shell) do(outputs []Output) {
	for _, out := range outputs {
		var err error
		switch {
		case out.Answer != nil:
			to := out.Answer.MAC
			if out.Answer.Broadcast {
				to = everybody
			}
			_, err = o.messages.WriteTo(datagram(o.server, out.Answer.To, out.Answer.Message.ToBytes()), &packet.Addr{HardwareAddr: to[:]})
		case out.Probe.IsValid():
			_, err = o.arp.WriteTo(arpRequest(MAC(o.ifi.HardwareAddr), o.server, out.Probe), &packet.Addr{HardwareAddr: everybody[:]})
		}
		if err != nil {
			o.log.Debug("DHCP answer not sent", "err", err) // the handset asks again
		}
	}
}

var everybody = MAC{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}

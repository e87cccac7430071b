package access

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"time"
)

// What hostapd says on its control socket is read as if anybody said it: it quotes names and addresses of strangers.

// eventKind is what an event of hostapd is about.
type eventKind int

const (
	otherEvent          eventKind = iota
	enabled                       // the access point is on the air
	disabled                      // it is not any more: interface gone, or taken down
	stationConnected              // a handset got in, with the right key
	stationDisconnected           // it left
	stationRejected               // it was refused, there are too many
	wrongKey                      // somebody tried with another passphrase
	channelSwitched
	terminating
)

type event struct {
	kind    eventKind
	name    string // as hostapd has it, of the kinds above
	station string // MAC address, "" none
}

var eventNames = map[string]eventKind{
	"AP-ENABLED": enabled, "AP-DISABLED": disabled, "INTERFACE-DISABLED": disabled,
	"AP-STA-CONNECTED": stationConnected, "AP-STA-DISCONNECTED": stationDisconnected,
	"AP-REJECTED-MAX-STA": stationRejected, "AP-STA-POSSIBLE-PSK-MISMATCH": wrongKey,
	"AP-CSA-FINISHED": channelSwitched, "CTRL-EVENT-TERMINATING": terminating,
}

// parseEvent reads one datagram that begins with "<", the level of its importance and ">".
func parseEvent(b []byte) (event, bool) {
	_, text, ok := bytes.Cut(b, []byte(">"))
	if !ok || len(b) == 0 || b[0] != '<' {
		return event{}, false
	}
	name, rest, _ := strings.Cut(strings.TrimSpace(string(text)), " ")
	kind, known := eventNames[name]
	if !known {
		return event{}, true
	}
	first, _, _ := strings.Cut(rest, " ")
	e := event{kind: kind, name: name}
	if mac, err := net.ParseMAC(first); err == nil && len(mac) == 6 {
		e.station = mac.String()
	}
	return e, true
}

// hostapdStatus is what STATUS tells.
type hostapdStatus struct {
	state    string // ENABLED when it is on the air
	channel  int
	networks []networkStatus
}

type networkStatus struct {
	iface, bssid string
	stations     int
}

// maxNetworks bounds what is read of STATUS; a Plan has two.
const maxNetworks = 8

// parseStatus reads the lines KEY=VALUE of STATUS and passes over those that it does not know.
func parseStatus(b []byte) (s hostapdStatus, err error) {
	for text := range strings.Lines(string(b)) {
		key, value, ok := strings.Cut(strings.TrimRight(text, "\r\n"), "=")
		if !ok {
			continue
		}
		switch key {
		case "state":
			s.state = value
			continue
		case "channel":
			if s.channel, err = strconv.Atoi(value); err != nil || s.channel < 0 || s.channel > 255 {
				return hostapdStatus{}, fmt.Errorf("%w: channel %.20q", errReply, value)
			}
			continue
		}
		name, at, ok := strings.Cut(key, "[")
		if !ok {
			continue
		}
		i, err := strconv.Atoi(strings.TrimSuffix(at, "]"))
		if err != nil || i < 0 || i >= maxNetworks || i > len(s.networks) {
			continue
		}
		if i == len(s.networks) {
			s.networks = append(s.networks, networkStatus{})
		}
		switch n := &s.networks[i]; name {
		case "bss":
			n.iface = value
		case "bssid":
			n.bssid = value
		case "num_sta":
			count, err := strconv.Atoi(value)
			if err != nil || count < 0 || count > maxAssociations {
				return hostapdStatus{}, fmt.Errorf("%w: %.20q stations", errReply, value)
			}
			n.stations = count
		}
	}
	if s.state == "" {
		return hostapdStatus{}, fmt.Errorf("%w: no state", errReply)
	}
	return s, nil
}

// maxAssociations is the most that one network can have: IEEE 802.11-2020 §9.4.1.8, AIDs of 1 to 2007.
const maxAssociations = 2007

// Errors of the control socket.
var (
	errReply   = errors.New("unexpected reply")
	errNoReply = errors.New("no reply")
)

// Bounds of a control socket.
const (
	maxDatagram = 8 << 10
	maxEvents   = 64 // waiting; further ones are counted and left out, since STATUS tells how things are
	replyWait   = 2 * time.Second
)

// control is a connection to one control socket of hostapd. One goroutine uses it.
type control struct {
	conn    *net.UnixConn
	own     string // path of this end
	replies chan []byte
	events  chan<- event
	dropped *atomic.Uint64
	done    chan struct{} // closed when the receiver ended
}

// dial connects to the socket of iface in dir and asks for events, which go to events as far as there is room, else
// dropped counts them.
func dial(ctx context.Context, dir, iface string, events chan<- event, dropped *atomic.Uint64) (*control, error) {
	own := filepath.Join(dir, "fieldkit-"+iface)
	// What an earlier process left behind is no socket any more.
	if err := os.Remove(own); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("control socket: %w", err)
	}
	conn, err := net.DialUnix("unixgram", &net.UnixAddr{Name: own, Net: "unixgram"}, &net.UnixAddr{Name: filepath.Join(dir, iface), Net: "unixgram"})
	if err != nil {
		_ = os.Remove(own) // it may have been bound before the connection failed
		return nil, fmt.Errorf("control socket: %w", err)
	}
	c := &control{conn: conn, own: own, replies: make(chan []byte, 1), events: events, dropped: dropped, done: make(chan struct{})}
	go c.receive()
	if reply, err := c.request(ctx, "ATTACH"); err != nil || string(reply) != "OK\n" {
		c.close()
		return nil, fmt.Errorf("events of %s: %w", iface, errors.Join(err, errReply))
	}
	return c, nil
}

func (c *control) receive() {
	defer close(c.done)
	buf := make([]byte, maxDatagram)
	for {
		n, err := c.conn.Read(buf)
		if err != nil {
			return // closed, or hostapd is gone, which its process tells
		}
		if e, ok := parseEvent(buf[:n]); ok {
			select {
			case c.events <- e:
			default:
				c.dropped.Add(1)
			}
			continue
		}
		select {
		case c.replies <- bytes.Clone(buf[:n]):
		default:
			c.dropped.Add(1) // nobody asked
		}
	}
}

// request sends a command and returns the reply. errNoReply after replyWait.
func (c *control) request(ctx context.Context, command string) ([]byte, error) {
	select {
	case <-c.replies: // late, to what was asked before
	default:
	}
	if err := c.conn.SetWriteDeadline(time.Now().Add(replyWait)); err != nil {
		return nil, err
	}
	if _, err := c.conn.Write([]byte(command)); err != nil {
		return nil, err
	}
	wait := time.NewTimer(replyWait)
	defer wait.Stop()
	select {
	case r := <-c.replies:
		return r, nil
	case <-c.done:
		return nil, net.ErrClosed
	case <-wait.C:
		return nil, fmt.Errorf("%w to %s", errNoReply, command)
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (c *control) status(ctx context.Context) (hostapdStatus, error) {
	b, err := c.request(ctx, "STATUS")
	if err != nil {
		return hostapdStatus{}, err
	}
	return parseStatus(b)
}

func (c *control) close() {
	_ = c.conn.Close()
	<-c.done
	_ = os.Remove(c.own)
}

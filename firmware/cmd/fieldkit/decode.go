package main

import (
	"bufio"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"fieldkit/firmware/mission"
	"fieldkit/overlay/decode"
	"fieldkit/overlay/decode/capture"
	"fieldkit/overlay/ident"
	"fieldkit/overlay/wire"
)

type decodeCommand struct {
	File         string `arg:"" optional:"" help:"Messages in hex, one a line, with or without a frame header; or a capture. Standard input if not given."`
	Pcap         bool   `help:"The input is a capture, pcap or pcapng."`
	Keylog       string `help:"Key log of one end, to open DTLS and TLS in the capture." placeholder:"FILE"`
	Mission      string `help:"Check certificates as kits of that mission do." placeholder:"FILE" xor:"trust"`
	Document     string `help:"Check certificates as that overlay configuration document says." placeholder:"FILE" xor:"trust"`
	NodeIDLength int    `name:"node-id-length" help:"Bytes of a Node-ID, 16 to 20; found in the messages if not given." placeholder:"BYTES"`
	Reencode     bool   `help:"Print the hex that the encoder makes of what was read, not JSON."`
	Verify       bool   `help:"Fail, too, when a signature does not verify."`
}

// maxDocument bounds a configuration document in bytes.
const maxDocument = 1 << 20

// errMalformed makes the exit status 1: the output has said what is wrong.
var errMalformed = errors.New("malformed")

// Run prints one line for each message, and fails if one was malformed.
func (c decodeCommand) Run(ctx context.Context) error {
	in := io.Reader(os.Stdin)
	if c.File != "" && c.File != "-" {
		f, err := os.Open(c.File)
		if err != nil {
			return err
		}
		defer f.Close()
		in = f
	}
	return c.decode(ctx, in, os.Stdout, os.Stderr)
}

func (c decodeCommand) decode(ctx context.Context, in io.Reader, out, report io.Writer) error {
	cfg, err := c.config()
	if err != nil {
		return err
	}
	p := &decodePrinter{name: c.File, decoder: decode.New(cfg), reencode: c.Reencode, out: bufio.NewWriter(out)}
	if c.File == "" || c.File == "-" {
		p.name = "standard input"
	}
	read := p.lines
	if c.Pcap {
		keys, err := c.keys()
		if err != nil {
			return err
		}
		read = func(ctx context.Context, in io.Reader) error { return p.capture(ctx, in, keys, report) }
	} else if c.Keylog != "" {
		return errors.New("--keylog opens a capture: it needs --pcap")
	}
	if err := errors.Join(read(ctx, in), p.out.Flush()); err != nil {
		return err
	}
	return p.verdict(c.Verify)
}

func (c decodeCommand) config() (cfg decode.Config, err error) {
	if n := c.NodeIDLength; n != 0 && (n < wire.MinNodeIDLen || n > wire.MaxNodeIDLen) {
		return cfg, fmt.Errorf("--node-id-length %d: not %d to %d", n, wire.MinNodeIDLen, wire.MaxNodeIDLen)
	}
	cfg.NodeIDLength = c.NodeIDLength
	var d *ident.Document
	switch {
	case c.Mission != "":
		m, err := mission.Load(c.Mission)
		if err != nil {
			return cfg, err
		}
		d, cfg.Trust = m.Document(), m.Trust()
	case c.Document != "":
		f, err := os.Open(c.Document)
		if err != nil {
			return cfg, err
		}
		defer f.Close()
		b, err := io.ReadAll(io.LimitReader(f, maxDocument))
		if err != nil {
			return cfg, err
		}
		if d, err = ident.ParseDocument(b, ""); err != nil {
			return cfg, fmt.Errorf("%s: %w", c.Document, err)
		}
		if cfg.Trust, err = ident.TrustFor(d); err != nil {
			return cfg, fmt.Errorf("%s: %w", c.Document, err)
		}
	default:
		return cfg, nil
	}
	cfg.Models = d.ModelOf
	if cfg.NodeIDLength == 0 {
		cfg.NodeIDLength = d.NodeIDLength
	}
	return cfg, nil
}

func (c decodeCommand) keys() (capture.KeyLog, error) {
	if c.Keylog == "" {
		return nil, nil
	}
	f, err := os.Open(c.Keylog)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	keys, err := capture.ReadKeyLog(f)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", c.Keylog, err)
	}
	return keys, nil
}

// decodePrinter prints a line for each message.
type decodePrinter struct {
	name      string // of the input
	decoder   *decode.Decoder
	reencode  bool
	out       *bufio.Writer
	buf       []byte
	malformed int // lines of --reencode that are none
	total     int
}

func (p *decodePrinter) lines(ctx context.Context, in io.Reader) error {
	lines := decode.NewLines(in)
	for ctx.Err() == nil {
		data, err := lines.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		fault := new(wire.SyntaxError)
		if err != nil && !errors.As(err, &fault) {
			return err
		}
		front := func(o *decode.Object) { o.Number("line", uint64(lines.Number())) }
		if err == nil {
			fault = nil
		}
		if err := p.print(decode.Unit{Data: data, Time: time.Now()}, fault, front); err != nil {
			return err
		}
	}
	return ctx.Err()
}

func (p *decodePrinter) capture(ctx context.Context, in io.Reader, keys capture.KeyLog, report io.Writer) error {
	r, err := capture.NewReader(in, keys)
	if err != nil {
		return fmt.Errorf("%s: %w", p.name, err)
	}
	for ctx.Err() == nil {
		packet, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return errors.Join(fmt.Errorf("%s: %w", p.name, err), p.out.Flush())
		}
		front := func(o *decode.Object) {
			o.Number("packet", packet.Number)
			o.Text("time", packet.Time.UTC().Format(time.RFC3339Nano))
			o.Text("from", packet.From.String())
			o.Text("to", packet.To.String())
			o.Text("link", packet.Link)
		}
		if err := p.print(decode.Unit{Data: packet.Data, Stream: packet.Stream, Time: packet.Time}, packet.Fault, front); err != nil {
			return err
		}
	}
	s := r.Stats()
	fmt.Fprintf(report, "%d packets; %d DTLS or TLS sessions, the secrets of %d known\n", s.Packets, s.Sessions, s.Keyed)
	for _, n := range []struct {
		count uint64
		what  string
	}{
		{s.Locked, "protected records without their secret"},
		{s.Failed, "protected records that their secret does not open"},
		{s.Broken, "streams and datagrams that break off"},
		{s.Cut, "packets captured in part, and IP fragments"},
		{s.Evicted, "connections forgotten for newer ones"},
	} {
		if n.count > 0 {
			fmt.Fprintf(report, "not read: %d %s\n", n.count, n.what)
		}
	}
	return ctx.Err()
}

// print writes the line of one message, and passes it on at once: the input may be a terminal, or a capture being made.
func (p *decodePrinter) print(u decode.Unit, fault *wire.SyntaxError, front func(*decode.Object)) error {
	b := p.buf[:0]
	p.total++
	switch {
	case p.reencode:
		b = p.again(b, u, fault)
	case fault != nil:
		b = p.decoder.Malformed(b, *fault, front)
	default:
		b, _ = p.decoder.Append(b, u, front)
	}
	p.buf = append(b, '\n')
	if _, err := p.out.Write(p.buf); err != nil {
		return err
	}
	return p.out.Flush()
}

// again appends the line of --reencode: hex, or a comment that says what is wrong, with the offset that the JSON has.
func (p *decodePrinter) again(b []byte, u decode.Unit, fault *wire.SyntaxError) []byte {
	if fault != nil {
		p.malformed++ // not even the decoder has seen it
		return fmt.Appendf(b, "# %v", fault)
	}
	if fault = p.decoder.Fault(u); fault != nil {
		return fmt.Appendf(b, "# %v", fault)
	}
	encoded, err := p.decoder.Reencode(nil, u.Data)
	if err != nil {
		p.malformed++
		return fmt.Appendf(b, "# %v", err)
	}
	return hex.AppendEncode(b, encoded)
}

// verdict is the exit status.
func (p *decodePrinter) verdict(verify bool) error {
	s := p.decoder.Stats()
	if malformed := s.Malformed + p.malformed; malformed > 0 {
		return fmt.Errorf("%d of %d messages: %w", malformed, p.total, errMalformed)
	}
	if verify && s.Invalid+s.Untrusted > 0 {
		return fmt.Errorf("%d signatures do not verify, %d by certificates that are not trusted", s.Invalid, s.Untrusted)
	}
	return nil
}

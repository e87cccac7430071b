package emu

import (
	"bytes"
	"encoding/binary"
	"io"
	"net"
	"testing"
	"time"
)

func frame(payload string) []byte {
	return append(binary.BigEndian.AppendUint32(nil, uint32(len(payload))), payload...)
}

func TestCableCarriesToAllOthers(t *testing.T) {
	c := NewCable()
	var plugs []*plug
	var ends []net.Conn
	for range 3 {
		ours, machine := net.Pipe()
		plugs, ends = append(plugs, c.plugIn(ours)), append(ends, machine)
	}
	defer func() {
		for i, p := range plugs {
			p.pull()
			_ = ends[i].Close()
		}
	}()
	if _, err := ends[0].Write(frame("hello")); err != nil {
		t.Fatal(err)
	}
	for _, e := range ends[1:] {
		b := make([]byte, 9)
		if _, err := io.ReadFull(e, b); err != nil || !bytes.Equal(b, frame("hello")) {
			t.Errorf("%q %v", b, err)
		}
	}
	_ = ends[0].SetReadDeadline(time.Now().Add(20 * time.Millisecond))
	if n, err := ends[0].Read(make([]byte, 1)); err == nil {
		t.Errorf("the sender heard %d bytes of itself", n)
	}
}

// A machine that takes nothing does not hold up the others.
func TestCableDropsForTheDeaf(t *testing.T) {
	c := NewCable()
	a, sender := net.Pipe()
	b, deaf := net.Pipe()
	pa, pb := c.plugIn(a), c.plugIn(b)
	for range plugQueue + 10 {
		if _, err := sender.Write(frame("x")); err != nil {
			t.Fatal(err)
		}
	}
	pa.pull() // what it sent has been dealt with
	sent, lost := c.Frames()
	if sent < plugQueue+9 || lost < 8 {
		t.Errorf("sent %d, lost %d", sent, lost)
	}
	_ = deaf.Close()
	pb.pull()
	_ = sender.Close()
}

// A stream that is none of frames ends the plug.
func TestCableRefusesNoise(t *testing.T) {
	c := NewCable()
	ours, machine := net.Pipe()
	p := c.plugIn(ours)
	if _, err := machine.Write([]byte{0xff, 0xff, 0xff, 0xff}); err != nil {
		t.Fatal(err)
	}
	p.pull()
	_ = machine.Close()
	if sent, _ := c.Frames(); sent != 0 {
		t.Errorf("%d frames", sent)
	}
}

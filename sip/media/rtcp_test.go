package media

import (
	"encoding/binary"
	"testing"

	"github.com/pion/rtcp"
)

// senderReport is an SR of ssrc with a report block about another stream, if any, and SDES.
func senderReport(ssrc, about uint32) []byte {
	sr := &rtcp.SenderReport{SSRC: ssrc, NTPTime: 0x1122334455667788, RTPTime: 99, PacketCount: 3, OctetCount: 480}
	if about != 0 {
		sr.Reports = []rtcp.ReceptionReport{{
			SSRC: about, FractionLost: 64, TotalLost: 5, LastSequenceNumber: 70000, Jitter: 80, LastSenderReport: 7, Delay: 8,
		}}
	}
	b, err := rtcp.Marshal([]rtcp.Packet{sr, rtcp.NewCNAMESourceDescription(ssrc, "alice@10.73.0.5")})
	if err != nil {
		panic(err)
	}
	return b
}

func parseRTCP(t *testing.T, b []byte) []rtcp.Packet {
	t.Helper()
	p, err := rtcp.Unmarshal(b)
	if err != nil {
		t.Fatalf("RTCP that another implementation cannot read: %v\n%x", err, b)
	}
	return p
}

// Reports cross the trunk with the SSRCs each side knows.
func TestReportsAreMapped(t *testing.T) {
	f := newFarCall(t, profileGCM)
	const alice, bob = 0xa11ce, 0xb0b
	f.a.say(f.da.rtp, rtpPacket(alice, 1000, "x"))
	heardByB := receive(t, f.db.rtp)
	f.b.say(f.db.rtp, rtpPacket(bob, 60000, "x"))
	heardByA := receive(t, f.da.rtp)

	// a's report about what it hears of b.
	f.a.report(f.da.rtcp, senderReport(alice, ssrcOf(heardByA)))
	at := parseRTCP(t, receive(t, f.db.rtcp))
	sr, ok := at[0].(*rtcp.SenderReport)
	if !ok || sr.SSRC != ssrcOf(heardByB) {
		t.Fatalf("b gets %v, want an SR of the SSRC it hears, %d", at[0], ssrcOf(heardByB))
	}
	if sr.NTPTime != 0x1122334455667788 || sr.RTPTime != 99 || sr.PacketCount != 3 {
		t.Errorf("sender information changed: %+v", sr)
	}
	if len(sr.Reports) != 1 || sr.Reports[0].SSRC != bob {
		t.Fatalf("reports %+v, want one about b's own SSRC", sr.Reports)
	}
	block := sr.Reports[0]
	offset := int64(seqOf(heardByA)) - 60000
	if got, want := block.LastSequenceNumber, uint32(70000-offset); got != want {
		t.Errorf("highest sequence number %d, want %d in b's own numbers", got, want)
	}
	if block.Jitter != 80 || block.FractionLost != 64 || block.TotalLost != 5 || block.LastSenderReport != 7 || block.Delay != 8 {
		t.Errorf("report changed: %+v", block)
	}
	if d, ok := at[1].(*rtcp.SourceDescription); !ok || d.Chunks[0].Source != sr.SSRC || d.Chunks[0].Items[0].Text != f.ta.relay.cnameOf(f.ta) {
		t.Errorf("SDES %v, want the trunk's CNAME, and not the handset's address", at[1])
	}
	if s := f.a.stats().Reported; s.Reports != 1 || s.Lost != 5 || s.Fraction != 0.25 || s.Jitter != 10 {
		t.Errorf("what a reports: %+v", s)
	}
	if s := f.bt.stats().Reported; s.Reports != 1 || s.Lost != 5 {
		t.Errorf("what a reports, seen at b's kit: %+v", s)
	}
}

func (r *Relay) cnameOf(t Trunk) string { return (*r.trunks.Load())[t].cname }

// What cannot be mapped does not cross.
func TestForeignReportsStayBehind(t *testing.T) {
	f := newFarCall(t, profileCM)
	f.a.say(f.da.rtp, rtpPacket(1, 1, "x"))
	receive(t, f.db.rtp)
	b, err := rtcp.Marshal([]rtcp.Packet{
		&rtcp.ReceiverReport{SSRC: 1, Reports: []rtcp.ReceptionReport{{SSRC: 4711}}},
		&rtcp.Goodbye{Sources: []uint32{1}},
		&rtcp.ApplicationDefined{SSRC: 1, Name: "KITX", Data: []byte("abcd")},
	})
	if err != nil {
		t.Fatal(err)
	}
	f.a.report(f.da.rtcp, b)
	got := parseRTCP(t, receive(t, f.db.rtcp))
	if len(got) != 2 {
		t.Fatalf("crossed: %v", got)
	}
	if rr, ok := got[0].(*rtcp.ReceiverReport); !ok || len(rr.Reports) != 0 {
		t.Errorf("a report about an unknown stream crossed: %v", got[0])
	}
}

func TestFeedbackIsMapped(t *testing.T) {
	f := newFarCall(t, profileGCM)
	f.a.say(f.da.rtp, rtpPacket(1, 500, "x"))
	heard := receive(t, f.db.rtp)
	f.b.say(f.db.rtp, rtpPacket(2, 1, "x"))
	heardByA := receive(t, f.da.rtp)
	nack := &rtcp.TransportLayerNack{SenderSSRC: 2, MediaSSRC: ssrcOf(heard), Nacks: []rtcp.NackPair{{PacketID: seqOf(heard), LostPackets: 3}}}
	pli := &rtcp.PictureLossIndication{SenderSSRC: 2, MediaSSRC: ssrcOf(heard)}
	b, err := rtcp.Marshal([]rtcp.Packet{nack, pli})
	if err != nil {
		t.Fatal(err)
	}
	f.b.report(f.db.rtcp, b)
	got := parseRTCP(t, receive(t, f.da.rtcp))
	n, ok := got[0].(*rtcp.TransportLayerNack)
	if !ok || n.MediaSSRC != 1 || n.SenderSSRC != ssrcOf(heardByA) || n.Nacks[0].PacketID != 500 || n.Nacks[0].LostPackets != 3 {
		t.Errorf("NACK %+v, want a's own SSRC and number", got[0])
	}
	if p, ok := got[1].(*rtcp.PictureLossIndication); !ok || p.MediaSSRC != 1 {
		t.Errorf("PLI %+v", got[1])
	}
}

func TestValidRTCP(t *testing.T) {
	good := senderReport(1, 2)
	if !validRTCP(good) {
		t.Fatal("a good compound refused")
	}
	for n := range good {
		if n == 52 {
			continue // the SR alone is whole
		}
		if validRTCP(good[:n]) {
			t.Errorf("truncated to %d bytes of %d accepted", n, len(good))
		}
	}
	long := binary.BigEndian.AppendUint16([]byte{0x80, typeRR}, 0xffff)
	if validRTCP(append(long, 0, 0, 0, 1)) {
		t.Error("length beyond the datagram accepted")
	}
}

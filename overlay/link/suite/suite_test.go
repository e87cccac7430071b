package suite

import (
	"bytes"
	"testing"

	"github.com/pion/dtls/v2"
	"github.com/pion/dtls/v2/pkg/protocol"
	"github.com/pion/dtls/v2/pkg/protocol/recordlayer"
)

func suitePair(t testing.TB) (client, server *Suite) {
	t.Helper()
	client, server = New(ECDSA, new(Exporter)), New(ECDSA, new(Exporter))
	master, cr, sr := bytes.Repeat([]byte{1}, 48), bytes.Repeat([]byte{2}, 32), bytes.Repeat([]byte{3}, 32)
	for s, isClient := range map[*Suite]bool{client: true, server: false} {
		if err := s.Init(master, cr, sr, isClient); err != nil {
			t.Fatal(err)
		}
	}
	return client, server
}

func seal(t testing.TB, s *Suite, seq uint64, body []byte) []byte {
	t.Helper()
	r := &recordlayer.RecordLayer{
		Header:  recordlayer.Header{Epoch: 1, SequenceNumber: seq, Version: protocol.Version1_2},
		Content: &protocol.ApplicationData{Data: body},
	}
	raw, err := r.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	out, err := s.Encrypt(r, raw)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func TestSuiteSealsAndOpens(t *testing.T) {
	c, s := suitePair(t)
	for _, p := range [][2]*Suite{{c, s}, {s, c}} {
		for _, n := range []int{0, 1, 200, 8000} {
			body := bytes.Repeat([]byte{7}, n)
			sealed := seal(t, p[0], 5, body)
			got, err := p[1].Decrypt(sealed)
			if err != nil || !bytes.Equal(got[recordlayer.HeaderSize:], body) {
				t.Fatalf("%d bytes: %v", n, err)
			}
			for i := range sealed { // every bit of the record is authenticated, but for the length the tag implies
				if i == 11 || i == 12 {
					continue
				}
				bad := bytes.Clone(sealed)
				bad[i] ^= 1
				if _, err := p[1].Decrypt(bad); err == nil {
					t.Errorf("%d bytes: changed byte %d not noticed", n, i)
				}
				if n > 200 && i > 100 {
					break
				}
			}
			for i := range min(len(sealed), 60) {
				if _, err := p[1].Decrypt(sealed[:i]); err == nil {
					t.Errorf("%d bytes: the first %d open", n, i)
				}
			}
		}
	}
}

// The flaw this suite is there for: "random explicit nonce". Equal input gives equal output, and another sequence number
// another nonce.
func TestNonceIsTheSequenceNumber(t *testing.T) {
	c, _ := suitePair(t)
	a, b, next := seal(t, c, 1, []byte("voice")), seal(t, c, 1, []byte("voice")), seal(t, c, 2, []byte("voice"))
	if !bytes.Equal(a, b) || bytes.Equal(a[recordlayer.HeaderSize:], next[recordlayer.HeaderSize:]) {
		t.Error("the nonce does not come from the sequence number alone")
	}
}

func TestSuiteWithoutKeysAndPlainRecords(t *testing.T) {
	empty := &Suite{}
	if _, err := empty.Decrypt(make([]byte, 50)); err == nil {
		t.Error("opened without keys")
	}
	if _, err := empty.Encrypt(&recordlayer.RecordLayer{}, make([]byte, 50)); err == nil {
		t.Error("sealed without keys")
	}
	_, s := suitePair(t)
	if _, err := s.Decrypt([]byte{20, 0xfe, 0xfd, 0, 1, 0, 0, 0, 0, 0, 0, 0, 1, 1}); err == nil {
		t.Error("a ChangeCipherSpec of a protected epoch passed unread")
	}
}

func TestOnlyOurSuiteIsOffered(t *testing.T) {
	for id := range uint16(0xffff) {
		if dtls.CipherSuiteID(id) == ECDSA {
			continue
		}
		for _, s := range Only(ECDSA, new(Exporter))() {
			if s.ID() == dtls.CipherSuiteID(id) {
				t.Errorf("suite %#x offered", id)
			}
		}
	}
}

func TestExporter(t *testing.T) {
	c, s := suitePair(t)
	a, err1 := c.exporter.Export("EXTRACTOR-dtls_srtp", nil, 60)
	b, err2 := s.exporter.Export("EXTRACTOR-dtls_srtp", nil, 60)
	if err1 != nil || err2 != nil || !bytes.Equal(a, b) || len(a) != 60 {
		t.Fatalf("%x, %x, %v, %v", a, b, err1, err2)
	}
	// "If no context is provided … it is not the same as a zero-length context" (RFC 5705 §4)
	if e, _ := c.exporter.Export("EXTRACTOR-dtls_srtp", []byte{}, 60); bytes.Equal(a, e) {
		t.Error("an empty context is the same as none")
	}
	for _, label := range []string{"client finished", "server finished", "master secret", "key expansion", "extended master secret", ""} {
		if _, err := c.exporter.Export(label, nil, 20); err == nil {
			t.Errorf("label %q exported", label)
		}
	}
	for _, n := range []int{-1, 0, maxExport + 1} {
		if _, err := c.exporter.Export("x", nil, n); err == nil {
			t.Errorf("%d bytes exported", n)
		}
	}
	if _, err := new(Exporter).Export("x", nil, 20); err == nil {
		t.Error("exported without a handshake")
	}
}

func BenchmarkSuite(b *testing.B) {
	c, s := suitePair(b)
	body := make([]byte, 200)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := s.Decrypt(seal(b, c, 1, body)); err != nil {
			b.Fatal(err)
		}
	}
}

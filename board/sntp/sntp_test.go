package sntp

import (
	"context"
	"encoding/binary"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func request(version byte) []byte {
	b := make([]byte, Size)
	b[0] = version<<3 | client
	copy(b[40:], "12345678")
	return b
}

func TestAnswer(t *testing.T) {
	now := time.Date(2026, 11, 23, 12, 0, 0, 500_000_000, time.UTC)
	known := Status{Synchronised: true, Stratum: 1, Reference: [4]byte{'G', 'P', 'S'}, Set: now.Add(-time.Minute), Dispersion: 500 * time.Millisecond}
	r, ok := Answer(request(3), now, now.Add(time.Millisecond), known)
	if !ok || r[0] != 3<<3|server || r[1] != 1 || string(r[12:16]) != "GPS\x00" || string(r[24:32]) != "12345678" {
		t.Errorf("answer % x", r)
	}
	if s, f := binary.BigEndian.Uint32(r[40:]), binary.BigEndian.Uint32(r[44:]); s != 3992716800+0 && s-2208988800 != uint32(now.Unix()) || f>>24 != 0x80 {
		t.Errorf("transmit timestamp %d %x", s, f)
	}
	if binary.BigEndian.Uint32(r[8:]) != 0x8000 {
		t.Errorf("root dispersion % x", r[8:12])
	}
	// RFC 4330 §5: "If the server is not synchronized, the Leap Indicator field is set to 3", which clients must not believe.
	r, ok = Answer(request(4), now, now, Status{})
	if !ok || r[0] != 3<<6|4<<3|server || r[1] != 0 || string(r[12:16]) != "INIT" {
		t.Errorf("unsynchronised: % x", r)
	}
}

// RFC 4330 §3: the seconds begin anew on 7 February 2036.
func TestTheSecondEra(t *testing.T) {
	var b [8]byte
	for at, want := range map[time.Time]uint32{
		time.Date(1970, 1, 1, 0, 0, 0, 0, time.UTC):   2208988800,
		time.Date(2036, 2, 7, 6, 28, 16, 0, time.UTC): 0,
		time.Date(2040, 1, 1, 0, 0, 0, 0, time.UTC):   123_010_304,
	} {
		if putTime(b[:], at); binary.BigEndian.Uint32(b[:]) != want {
			t.Errorf("%v is %d", at, binary.BigEndian.Uint32(b[:]))
		}
	}
}

func TestWhatIsNoRequest(t *testing.T) {
	now := time.Now()
	for n := range Size {
		if _, ok := Answer(request(4)[:n], now, now, Status{}); ok {
			t.Errorf("%d bytes are answered", n)
		}
	}
	for first := range 256 {
		b := request(4)
		b[0] = byte(first)
		// Modes of the reference implementation (6, 7) are those that were used to flood others.
		if _, ok := Answer(b, now, now, Status{}); ok != (first&7 == client && first>>3&7 >= 1 && first>>3&7 <= 4) {
			t.Errorf("%#x: %v", first, ok)
		}
	}
}

func serve(t *testing.T, network string, status Status) (*Server, string) {
	t.Helper()
	c, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := NewServer(netip.MustParsePrefix(network), func() Status { return status })
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- s.Serve(ctx, c) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	return s, c.LocalAddr().String()
}

func TestServe(t *testing.T) {
	s, at := serve(t, "10.73.0.0/16", Status{})
	c, err := net.Dial("udp", at)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(5 * time.Second))
	for _, b := range [][]byte{{}, make([]byte, 500), request(4)} {
		if _, err := c.Write(b); err != nil {
			t.Fatal(err)
		}
	}
	b := make([]byte, 512)
	if n, err := c.Read(b); err != nil || n != Size {
		t.Fatalf("%d %v", n, err)
	}
	if st := s.Stats(); st.Refused != 2 {
		t.Errorf("%+v", st)
	}
}

// ntpdate was not written here. It takes its time on nobody's word who says that he does not know it.
func TestNtpdate(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("port 123 needs root")
	}
	path := "/usr/sbin/ntpdate"
	if _, err := os.Stat(path); err != nil {
		if os.Getenv("FIELDKIT_CI") != "" {
			t.Fatal(err)
		}
		t.Skip(err)
	}
	for _, known := range []bool{true, false} {
		c, err := net.ListenPacket("udp", "127.0.0.73:123")
		if err != nil {
			t.Fatal(err)
		}
		s := NewServer(netip.MustParsePrefix("10.73.0.0/16"), func() Status {
			return Status{Synchronised: known, Stratum: 2, Reference: [4]byte{'L', 'O', 'C', 'L'}, Set: time.Now()}
		})
		ctx, cancel := context.WithCancel(context.Background())
		ended := make(chan error, 1)
		go func() { ended <- s.Serve(ctx, c) }()
		out, err := exec.Command(path, "-q", "-u", "127.0.0.73").CombinedOutput()
		if known && (err != nil || !strings.Contains(string(out), " s2 ")) {
			t.Errorf("a server that knows the time: %v\n%s", err, out)
		}
		if !known && err == nil {
			t.Errorf("a server that does not know the time is believed:\n%s", out)
		}
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}
}

func FuzzAnswer(f *testing.F) {
	f.Add(request(4))
	f.Fuzz(func(t *testing.T, b []byte) {
		if r, ok := Answer(b, time.Now(), time.Now(), Status{}); ok && (len(b) < Size || r[0]>>6 != unsynchronised) {
			t.Errorf("%x", r)
		}
	})
}

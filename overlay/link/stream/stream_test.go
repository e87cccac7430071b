package stream

import (
	"bytes"
	"errors"
	"io"
	"net"
	"os"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"fieldkit/overlay/link/sr"
	"fieldkit/overlay/wire"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func frame(t *testing.T, f wire.Frame) []byte {
	t.Helper()
	b, err := f.AppendBinary(nil)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// Frames come out as they went in, however the connection cuts them.
func TestFramesAreFoundAgain(t *testing.T) {
	a, b := net.Pipe()
	sent := [][]byte{
		frame(t, wire.Frame{Type: wire.FrameData, Sequence: 7, Message: []byte("one")}),
		frame(t, wire.Frame{Type: wire.FrameAck, Sequence: 9, Received: 3}),
		frame(t, wire.Frame{Type: wire.FrameData}),
		frame(t, wire.Frame{Type: wire.FrameData, Message: bytes.Repeat([]byte("x"), 100)}),
	}
	go func() {
		for _, c := range bytes.Join(sent, nil) { // a byte at a time
			if _, err := a.Write([]byte{c}); err != nil {
				t.Error(err)
			}
		}
		_ = a.Close()
	}()
	s := New(b, 100, 1000)
	buf := make([]byte, s.MaxRecord())
	for i, want := range sent {
		if n, err := s.Read(buf); err != nil || !bytes.Equal(buf[:n], want) {
			t.Errorf("frame %d: %x, %v", i, buf[:n], err)
		}
	}
	if _, err := s.Read(buf); !errors.Is(err, io.EOF) {
		t.Errorf("at the end: %v", err)
	}
	_ = b.Close()
}

func TestWhatIsNoFrame(t *testing.T) {
	for name, c := range map[string]struct {
		bytes []byte
		want  error
	}{
		"unknown type": {[]byte{1, 2, 3}, sr.ErrFailed},
		"cut header":   {[]byte{wire.FrameData, 0, 0}, io.ErrUnexpectedEOF},
		"cut message":  {[]byte{wire.FrameData, 0, 0, 0, 0, 0, 0, 5, 1}, io.ErrUnexpectedEOF},
		"cut ACK":      {[]byte{wire.FrameAck, 0}, io.ErrUnexpectedEOF},
		"too long":     {[]byte{wire.FrameData, 0, 0, 0, 0, 0, 1, 0, 'h', 'e', 'a', 'd'}, sr.ErrTooLarge},
	} {
		t.Run(name, func(t *testing.T) {
			a, b := net.Pipe()
			go func() {
				_, _ = a.Write(c.bytes) // whatever is read of it
				_ = a.Close()
			}()
			s := New(b, 100, 1000)
			_, err := s.Read(make([]byte, s.MaxRecord()))
			if !errors.Is(err, c.want) {
				t.Errorf("%v, want %v", err, c.want)
			}
			if long := new(TooLongError); errors.As(err, &long) && string(long.Head) != "head" {
				t.Errorf("head %q", long.Head)
			}
			_ = b.Close()
		})
	}
}

// Who claims a long message and sends nothing of it is not waited for.
func TestLongMessageIsNotWaitedFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := net.Pipe()
		go func() { _, _ = a.Write([]byte{wire.FrameData, 0, 0, 0, 0, 255, 255, 255}) }()
		s := New(b, 100, 1000)
		start := time.Now()
		if _, err := s.Read(make([]byte, s.MaxRecord())); !errors.Is(err, sr.ErrTooLarge) || time.Since(start) > time.Second {
			t.Errorf("%v after %v", err, time.Since(start))
		}
		_, _ = a.Close(), b.Close()
	})
}

// What waits is bounded, and a far end that takes nothing for writeTimeout ends the stream.
func TestFarEndThatDoesNotRead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := net.Pipe()
		s := New(a, 100, 1000)
		ended := make(chan error, 1)
		start := time.Now()
		go func() { ended <- s.Send() }()
		f := frame(t, wire.Frame{Type: wire.FrameData, Message: make([]byte, 92)})
		if _, err := s.Write(f); err != nil {
			t.Fatal(err)
		}
		synctest.Wait() // that one is under way
		for i := range 12 {
			if _, err := s.Write(f); errors.Is(err, sr.ErrQueueFull) != (i >= 10) {
				t.Errorf("frame %d: %v", i, err)
			}
		}
		if err := s.Message([]byte("voice"), 100); !errors.Is(err, sr.ErrQueueFull) {
			t.Errorf("voice behind 1000 bytes: %v", err)
		}
		if err := <-ended; !errors.Is(err, os.ErrDeadlineExceeded) || time.Since(start) != writeTimeout {
			t.Errorf("%v after %v", err, time.Since(start))
		}
		_, _ = s.Close(), b.Close()
		if _, err := s.Write(f); !errors.Is(err, sr.ErrClosed) {
			t.Errorf("after close: %v", err)
		}
	})
}

// Close lets what is queued go, but not for long.
func TestCloseSendsWhatIsQueued(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := net.Pipe()
		s := New(a, 100, 1000)
		for _, m := range []string{"last", "words"} {
			if err := s.Message([]byte(m), 1000); err != nil {
				t.Fatal(err)
			}
		}
		ended := make(chan error, 1)
		go func() { ended <- s.Send() }()
		got := make(chan []byte, 1)
		go func() {
			all, _ := io.ReadAll(b)
			got <- all
		}()
		if err := s.Close(); err != nil {
			t.Error(err)
		}
		want := append(frame(t, wire.Frame{Type: wire.FrameData, Message: []byte("last")}), frame(t, wire.Frame{Type: wire.FrameData, Sequence: 1, Message: []byte("words")})...)
		if all := <-got; !bytes.Equal(all, want) {
			t.Errorf("got %x, want %x", all, want)
		}
		if err := <-ended; err != nil {
			t.Error(err)
		}

		c, d := net.Pipe()
		s = New(c, 100, 1000)
		if err := s.Message([]byte("nobody reads"), 1000); err != nil {
			t.Fatal(err)
		}
		go func() { ended <- s.Send() }()
		start := time.Now()
		_ = s.Close()
		if took := time.Since(start); took > 2*time.Second {
			t.Errorf("close took %v", took)
		}
		if err := <-ended; err == nil {
			t.Error("sent to nobody")
		}
		_ = d.Close()
	})
}

// recorded is a connection on which these bytes came and then the end.
type recorded struct {
	net.Conn
	*bytes.Reader
}

func (r recorded) Read(b []byte) (int, error)    { return r.Reader.Read(b) }
func (r recorded) Write(b []byte) (int, error)   { return len(b), nil }
func (recorded) SetReadDeadline(time.Time) error { return nil }
func (recorded) Close() error                    { return nil }

// Frames are found where wire.NextFrame finds them.
func FuzzFrames(f *testing.F) {
	f.Add([]byte{wire.FrameData, 0, 0, 0, 1, 0, 0, 1, 'x', wire.FrameAck, 0, 0, 0, 1, 0, 0, 0, 0})
	f.Add([]byte{wire.FrameData, 0, 0, 0, 1, 0, 1, 0})
	f.Add([]byte{7})
	f.Fuzz(func(t *testing.T, b []byte) {
		const most = 40
		s := New(recorded{Reader: bytes.NewReader(b)}, most, 0)
		buf := make([]byte, s.MaxRecord())
		for rest := b; ; {
			n, err := s.Read(buf)
			_, size, want := wire.NextFrame(rest, most)
			switch {
			case want != nil || size == 0:
				if err == nil {
					t.Fatalf("%x read as a frame of %d bytes: %v", rest, n, want)
				}
				return
			case err != nil || !bytes.Equal(buf[:n], rest[:size]):
				t.Fatalf("%x read as %x, %v", rest, buf[:n], err)
			}
			rest = rest[size:]
		}
	})
}

package update

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime/multipart"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"fieldkit/firmware/card"
)

// uploads serves a kit's handler as the status page does: with deadlines for pages.
func uploads(t *testing.T, u *Updater, lim limits) *httptest.Server {
	t.Helper()
	s := httptest.NewUnstartedServer(u.handler("/update", lim))
	s.Config.ReadTimeout, s.Config.WriteTimeout = 300*time.Millisecond, 300*time.Millisecond
	s.Start()
	t.Cleanup(s.Close)
	return s
}

// counted counts what was read of it.
type counted struct {
	io.Reader
	n int
}

func (c *counted) Read(b []byte) (int, error) {
	n, err := c.Reader.Read(b)
	c.n += n
	return n, err
}

func post(t *testing.T, url, media string, body io.Reader, headers ...string) (int, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, url, body)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", media)
	for i := 0; i < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	c := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	r, err := c.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Body.Close()
	b, err := io.ReadAll(r.Body)
	if err != nil {
		t.Fatal(err)
	}
	return r.StatusCode, string(b)
}

func TestUpload(t *testing.T) {
	k := boot(t, newCard(t, 1), newItems(&power{left: -1}), 1, false, nil)
	k.run(t)
	s := uploads(t, k.Updater, uploadLimits)
	code, body := post(t, s.URL, MediaType, bytes.NewReader(bundle(t, 2)))
	var a Upload
	if err := json.Unmarshal([]byte(body), &a); err != nil || code != http.StatusAccepted || a != (Upload{"v0.2", 2, Written}) {
		t.Fatalf("%d %s", code, body)
	}
	if !hasRelease(t, k.card, 3, 2) || k.View().State != Written {
		t.Errorf("%+v", k.View())
	}
	if code, body = post(t, s.URL, MediaType, bytes.NewReader(bundle(t, 2))); code != http.StatusConflict || !strings.Contains(body, "written and waits") {
		t.Errorf("again: %d %s", code, body)
	}
}

// A browser without scripts sends a form, and is led back.
func TestUploadOfAForm(t *testing.T) {
	k := boot(t, newCard(t, 1), newItems(&power{left: -1}), 1, false, nil)
	k.run(t)
	var b bytes.Buffer
	form := multipart.NewWriter(&b)
	w, err := form.CreateFormFile(FormField, "update.kit")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(bundle(t, 2)); err != nil {
		t.Fatal(err)
	}
	if err := form.Close(); err != nil {
		t.Fatal(err)
	}
	if code, body := post(t, uploads(t, k.Updater, uploadLimits).URL, form.FormDataContentType(), &b); code != http.StatusSeeOther {
		t.Errorf("%d %s", code, body)
	}
	if k.View().State != Written {
		t.Errorf("%+v", k.View())
	}
}

func TestUploadRefused(t *testing.T) {
	good := bundle(t, 2)
	foreign := append(must(Sign(manifest(t, release(2)), signAs(2))), make([]byte, 8<<20)...)
	lying := manifest(t, release(2))
	lying.Size -= 512
	for name, c := range map[string]struct {
		body    []byte
		headers []string
		media   string
		code    int
		says    string
	}{
		"another mission's": {foreign, nil, MediaType, http.StatusForbidden, "not signed by this mission: signature of somebody else"},
		"older":             {bundle(t, 0+1), nil, MediaType, http.StatusConflict, "there already"},
		"rubbish":           {bytes.Repeat([]byte("x"), 8<<20), nil, MediaType, http.StatusBadRequest, "not an update"},
		"cut short":         {good[:len(good)/2], nil, MediaType, http.StatusBadRequest, "cut short"},
		"larger than said":  {append(header(t, lying), compress(t, slot(t, release(2)))...), nil, MediaType, http.StatusRequestEntityTooLarge, "too large"},
		"of another page":   {good, []string{"Origin", "http://evil.example"}, MediaType, http.StatusForbidden, "another site"},
		"cross-site":        {good, []string{"Sec-Fetch-Site", "cross-site"}, MediaType, http.StatusForbidden, "another site"},
		"text":              {good, nil, "text/plain", http.StatusUnsupportedMediaType, MediaType},
		"form without file": {[]byte("--x\r\nContent-Disposition: form-data; name=\"a\"\r\n\r\n\r\n--x--\r\n"), nil, "multipart/form-data; boundary=x", http.StatusBadRequest, "no file"},
	} {
		t.Run(name, func(t *testing.T) {
			k := boot(t, newCard(t, 1), newItems(&power{left: -1}), 1, false, nil)
			k.run(t)
			s := uploads(t, k.Updater, uploadLimits)
			// Without a length the client sends on until it is told otherwise.
			code, body := post(t, s.URL, c.media, io.MultiReader(bytes.NewReader(c.body)), c.headers...)
			if code != c.code || !strings.Contains(body, c.says) {
				t.Errorf("%d %s", code, body)
			}
			if v := k.View(); v.State == Written || v.State == Receiving {
				t.Errorf("%+v", v)
			}
			if !hasRelease(t, k.card, 2, 1) {
				t.Error("the running slot changed")
			}
		})
	}
}

// What this kit does not want, or its mission did not sign, is refused before the slot is read or written.
func TestRefusedByTheHeaderAlone(t *testing.T) {
	rest := make([]byte, 1<<20)
	for name, c := range map[string]struct {
		header []byte
		want   error
	}{
		"another mission's": {must(Sign(manifest(t, release(2)), signAs(2))), ErrForeign},
		"the same":          {header(t, manifest(t, release(1))), ErrSame},
		"rubbish":           {bytes.Repeat([]byte("x"), 100), ErrMalformed},
		"cut in the header": {header(t, manifest(t, release(2)))[:100], ErrMalformed},
	} {
		k := boot(t, newCard(t, 1), newItems(&power{left: -1}), 1, false, nil)
		k.run(t)
		before := k.card.used
		in := &counted{Reader: io.MultiReader(bytes.NewReader(c.header), bytes.NewReader(rest))}
		if name == "cut in the header" {
			in.Reader = bytes.NewReader(c.header)
		}
		if _, err := k.Receive(t.Context(), in); !errors.Is(err, c.want) {
			t.Errorf("%s: %v", name, err)
		}
		if in.n > len(c.header) || k.card.used != before {
			t.Errorf("%s: %d bytes read, %d operations", name, in.n, k.card.used-before)
		}
	}
}

func must(b []byte, err error) []byte {
	if err != nil {
		panic(err)
	}
	return b
}

// dribble gives a little at a time.
type dribble struct {
	b     []byte
	n     int
	pause time.Duration
}

func (d *dribble) Read(b []byte) (int, error) {
	if len(d.b) == 0 {
		return 0, io.EOF
	}
	time.Sleep(d.pause)
	n := copy(b[:min(len(b), d.n)], d.b)
	d.b = d.b[n:]
	return n, nil
}

// An upload takes longer than a page may: the server's deadlines must not end one that goes on.
func TestUploadThatTakesLongerThanAPage(t *testing.T) {
	k := boot(t, newCard(t, 1), newItems(&power{left: -1}), 1, false, nil)
	k.run(t)
	b := bundle(t, 2)
	code, body := post(t, uploads(t, k.Updater, uploadLimits).URL, MediaType, &dribble{b: b, n: len(b)/20 + 1, pause: 40 * time.Millisecond})
	if code != http.StatusAccepted {
		t.Errorf("%d %s", code, body)
	}
}

// While one upload is written there is no other; one that is slow at its header keeps nobody out; and whoever falls
// behind is told and dropped.
func TestTwoUploadsAtOnceAndSlowOnes(t *testing.T) {
	k := boot(t, newCard(t, 1), newItems(&power{left: -1}), 1, false, nil)
	k.run(t)
	s := uploads(t, k.Updater, limits{header: time.Second, read: time.Second, rate: 200 << 10, answer: time.Minute})

	// rawPost sends a body bit by bit, for as long as the other side takes it.
	rawPost := func(body []byte, n int) net.Conn {
		c, err := net.Dial("tcp", s.Listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		var sending sync.WaitGroup
		t.Cleanup(func() {
			_ = c.Close()
			sending.Wait()
		})
		if err := c.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
			t.Fatal(err)
		}
		sending.Go(func() {
			_, err := io.WriteString(c, "POST / HTTP/1.1\r\nHost: kit\r\nContent-Length: 1000000\r\nContent-Type: "+MediaType+"\r\n\r\n")
			for part := range slices.Chunk(body, n) {
				if err == nil {
					_, err = c.Write(part)
				}
				time.Sleep(100 * time.Millisecond)
			}
		})
		return c
	}
	answer := func(c net.Conn) string {
		b := make([]byte, 1000)
		n, _ := io.ReadAtLeast(c, b, 150)
		return string(b[:n])
	}
	silent := rawPost([]byte("KITSLOT1"), 100)
	slow := rawPost(bundle(t, 2)[:64<<10], 4<<10)
	for k.View().State != Receiving {
		time.Sleep(5 * time.Millisecond)
	}
	if code, body := post(t, s.URL, MediaType, bytes.NewReader(bundle(t, 3))); code != http.StatusServiceUnavailable || !strings.Contains(body, "v0.2 is being received") {
		t.Errorf("second: %d %s", code, body)
	}
	if a := answer(slow); !strings.HasPrefix(a, "HTTP/1.1 408 ") || !strings.Contains(a, "too slowly") {
		t.Errorf("slow one: %q", a)
	}
	if a := answer(silent); !strings.HasPrefix(a, "HTTP/1.1 408 ") {
		t.Errorf("slow at the header: %q", a)
	}
	if code, body := post(t, s.URL, MediaType, bytes.NewReader(bundle(t, 3))); code != http.StatusAccepted {
		t.Errorf("after it: %d %s", code, body)
	}
}

func TestUploadWithoutACard(t *testing.T) {
	var none *Updater
	if code, body := post(t, uploads(t, none, uploadLimits).URL, MediaType, strings.NewReader("KITSLOT1")); code != http.StatusNotImplemented {
		t.Errorf("%d %s", code, body)
	}
}

// A browser sends all it has before it looks at the answer: the kit must have taken it, or the answer is lost with the
// connection.
func TestRefusalReachesWhoSendsEverythingFirst(t *testing.T) {
	k := boot(t, newCard(t, 1), newItems(&power{left: -1}), 1, false, nil)
	k.run(t)
	s := uploads(t, k.Updater, uploadLimits)
	c, err := net.Dial("tcp", s.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	rubbish := make([]byte, 16<<20)
	if _, err := fmt.Fprintf(c, "POST / HTTP/1.1\r\nHost: kit\r\nContent-Length: %d\r\nContent-Type: %s\r\n\r\n", len(rubbish), MediaType); err != nil {
		t.Fatal(err)
	}
	for part := range slices.Chunk(rubbish, 1<<20) {
		if _, err := c.Write(part); err != nil {
			t.Fatalf("the kit hung up: %v", err)
		}
		time.Sleep(50 * time.Millisecond)
	}
	b, err := io.ReadAll(c)
	if err != nil || !strings.HasPrefix(string(b), "HTTP/1.1 400 ") || !strings.Contains(string(b), "not an update") {
		t.Errorf("%q %v", b, err)
	}
}

// What was written before a reboot is read again before it is tried: a card can lose it meanwhile.
func TestSlotThatChangedWhileItWaited(t *testing.T) {
	c, items := newCard(t, 1), newItems(&power{left: -1})
	k := boot(t, c, items, 1, false, nil)
	stop := k.run(t)
	if _, err := k.Receive(t.Context(), bytes.NewReader(bundle(t, 2))); err != nil {
		t.Fatal(err)
	}
	stop()
	soon := func(cfg *Config) { cfg.Tick = 5 * time.Millisecond }
	k = boot(t, c, items, 1, false, soon)
	stop = k.run(t)
	eventually(t, "check of the slot", func() bool { return !k.View().Check })
	if v := k.View(); v.State != Written {
		t.Errorf("a good one: %+v", v)
	}
	stop()
	c.flip = card.SlotB.Offset + 100<<10
	k = boot(t, c, items, 1, false, soon)
	k.run(t)
	eventually(t, "refusal", func() bool { return k.View().State == Refused })
	if v := k.View(); !strings.Contains(v.Why, "the card may be failing") {
		t.Errorf("%+v", v)
	}
}

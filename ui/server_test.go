package ui

import (
	"context"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"
	"time"
)

func sample() Status {
	return Status{
		Kit:  Kit{NodeID: "00112233445566778899aabbccddeeff", Number: 412, Name: "maple", Mission: "relief", SIP: "10.73.0.1:5060", JoinedMS: 1234},
		Kits: []Neighbour{{NodeID: "ffeeddccbbaa99887766554433221100", Number: 413, State: "stranger", Reason: "another mission"}},
		Ring: []string{"00112233445566778899aabbccddeeff"},
		Access: Access{
			State: "on air", SSID: "Valley <b>", Radio: "wlan0 (brcmfmac)", Channel: 6, Country: "DE", Clients: 8, Limit: 8,
			BSS: []BSS{{Interface: "wlan0", SSID: "Valley <b>", BSSID: "02:00:00:00:00:01", Clients: 8}},
		},
		Handsets: []Handset{{Name: `<script>alert(1)</script>`, Number: "41201", Registered: true, Contact: "10.73.1.5:5060"}},
		Calls:    []Call{{From: "41201", To: "41301", State: "answered", SetupMS: 42, Media: []Stream{{From: "41201", To: "41301", Packets: 50}}}},
		Board:    Board{Kind: "simulated", State: "alone", LEDs: []LED{{Name: "LINK", Colour: "blue", Pattern: "off"}}},
		Health:   []Check{{Name: "overlay", State: "warn", Cause: "no other kit", SinceS: 200}},
		Counters: []Counter{{Name: "strangers refused", Value: 7}},
	}
}

func get(t *testing.T, path string) (*http.Response, string) {
	t.Helper()
	s, err := New(Config{Status: sample})
	if err != nil {
		t.Fatal(err)
	}
	w := httptest.NewRecorder()
	s.ServeHTTP(w, httptest.NewRequest(http.MethodGet, path, nil))
	return w.Result(), w.Body.String()
}

func TestPageShowsEveryPart(t *testing.T) {
	for _, path := range []string{"/", "/fragment"} {
		r, body := get(t, path)
		if r.StatusCode != http.StatusOK {
			t.Fatalf("%s: status %d", path, r.StatusCode)
		}
		for _, want := range []string{"maple", "412", "relief", "no other kit", "3 min", "stranger: another mission", "41201", "50 packets", "strangers refused", "42.0 ms", "LINK"} {
			if !strings.Contains(body, want) {
				t.Errorf("%s does not show %q", path, want)
			}
		}
	}
}

func TestPageSaysWhenNothingIsWrong(t *testing.T) {
	well := func() Status { return Status{Health: []Check{{Name: "overlay", State: "ok"}}} }
	s, err := New(Config{Status: well})
	if err != nil {
		t.Fatal(err)
	}
	w := httptest.NewRecorder()
	s.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/", nil))
	if !strings.Contains(w.Body.String(), "Nothing is wrong") {
		t.Error("a healthy kit does not say so")
	}
	if _, body := get(t, "/"); strings.Contains(body, "Nothing is wrong") {
		t.Error("a kit with a warning says that nothing is wrong")
	}
}

// A name comes from whoever registers it: it must reach the page as text.
func TestPageEscapesNames(t *testing.T) {
	_, body := get(t, "/")
	if strings.Contains(body, "<script>alert") {
		t.Error("a handset's name is live markup on the page")
	}
	if !strings.Contains(body, "&lt;script&gt;") {
		t.Error("the handset's name is missing from the page")
	}
}

func TestHeadersKeepThePageToItself(t *testing.T) {
	for _, path := range []string{"/", "/status.json", "/assets/page.js"} {
		r, _ := get(t, path)
		csp := r.Header.Get("Content-Security-Policy")
		for _, want := range []string{"default-src 'none'", "script-src 'self'", "frame-ancestors 'none'"} {
			if !strings.Contains(csp, want) {
				t.Errorf("%s: policy %q lacks %s", path, csp, want)
			}
		}
		if r.Header.Get("X-Content-Type-Options") != "nosniff" {
			t.Errorf("%s: no nosniff", path)
		}
	}
}

func TestNothingLoadsFromOutside(t *testing.T) {
	for _, path := range []string{"/", "/assets/page.css", "/assets/page.js"} {
		_, body := get(t, path)
		for _, bad := range []string{`src="http`, `href="http`, "url(http", "@import", "//cdn"} {
			if strings.Contains(body, bad) {
				t.Errorf("%s refers outside the kit: %s", path, bad)
			}
		}
	}
}

func TestJSONIsTheSameStatus(t *testing.T) {
	r, body := get(t, "/status.json")
	if ct := r.Header.Get("Content-Type"); ct != "application/json" {
		t.Errorf("content type %q", ct)
	}
	var got Status
	if err := json.Unmarshal([]byte(body), &got); err != nil {
		t.Fatal(err)
	}
	if got.Kit != sample().Kit || got.Handsets[0] != sample().Handsets[0] || got.Health[0] != sample().Health[0] {
		t.Errorf("JSON lost something: %+v", got)
	}
}

func TestUnknownPathsAndMethods(t *testing.T) {
	s, err := New(Config{Status: sample})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		method, path string
		want         int
	}{
		{http.MethodGet, "/etc/passwd", http.StatusNotFound},
		{http.MethodGet, "/assets/../server.go", http.StatusTemporaryRedirect},
		{http.MethodPost, "/", http.StatusMethodNotAllowed},
		{http.MethodDelete, "/status.json", http.StatusMethodNotAllowed},
	} {
		w := httptest.NewRecorder()
		s.ServeHTTP(w, httptest.NewRequest(c.method, c.path, nil))
		if w.Code != c.want {
			t.Errorf("%s %s: %d, want %d", c.method, c.path, w.Code, c.want)
		}
	}
}

func TestServeEndsWithItsContext(t *testing.T) {
	s, err := New(Config{Status: sample})
	if err != nil {
		t.Fatal(err)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Serve(ctx, ln) }()
	r, err := http.Get("http://" + ln.Addr().String() + "/status.json")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadAll(r.Body); err != nil {
		t.Fatal(err)
	}
	_ = r.Body.Close()
	cancel()
	if err := <-done; err != nil {
		t.Errorf("Serve ended with %v", err)
	}
	if c, err := net.Dial("tcp", ln.Addr().String()); err == nil {
		_ = c.Close()
		t.Error("the listener outlived its context")
	}
}

// One handset that opens connections and says nothing keeps no other from the page, nor from its connectivity check.
func TestOneClientCannotHoldAllConnections(t *testing.T) {
	s, err := New(Config{Status: sample})
	if err != nil {
		t.Fatal(err)
	}
	ln, err := net.Listen("tcp4", ":0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Serve(ctx, ln) }()
	defer func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}()
	from := func(host string) *net.Dialer {
		return &net.Dialer{Timeout: 2 * time.Second, LocalAddr: &net.TCPAddr{IP: net.ParseIP(host)}}
	}
	at := net.JoinHostPort("127.0.0.1", strconv.Itoa(ln.Addr().(*net.TCPAddr).Port))
	for range maxConnections {
		c, err := from("127.0.0.2").Dial("tcp4", at)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
	}
	other := &http.Client{Timeout: 2 * time.Second, Transport: &http.Transport{DialContext: from("127.0.0.3").DialContext, DisableKeepAlives: true}}
	for range 2 * maxPerClient { // places are given back
		r, err := other.Get("http://" + at + "/status.json")
		if err != nil {
			t.Fatal(err)
		}
		_ = r.Body.Close()
	}
}

func TestAge(t *testing.T) {
	for s, want := range map[float64]string{0: "0 s", 89.9: "89 s", 90: "1 min", 5399: "89 min", 7500: "2 h 5 min"} {
		if got := Age(s); got != want {
			t.Errorf("Age(%v) = %q, want %q", s, got, want)
		}
	}
}

// The one page that sends something may do so to this kit alone, works without scripts, and shows what becomes of it.
func TestUpdatePage(t *testing.T) {
	st := Status{Kit: Kit{Name: "Hut", Number: 101}, Update: Update{
		State: "receiving", Version: "v1", Slot: "A", New: Bundle{Version: "<v2>", Written: 5e6, Size: 20e6},
		Last: Outcome{State: "rolled back", Version: "v2", Why: "SIP: no answer"}, Offered: Release{Version: "v3"},
	}}
	posted := 0
	s, err := New(Config{Status: func() Status { return st }, Update: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { posted++ })})
	if err != nil {
		t.Fatal(err)
	}
	get := func(method string) *httptest.ResponseRecorder {
		w := httptest.NewRecorder()
		s.ServeHTTP(w, httptest.NewRequest(method, "/update", nil))
		return w
	}
	w := get(http.MethodGet)
	body := w.Body.String()
	for _, want := range []string{
		`method="post" action="/update" enctype="multipart/form-data"`, `name="bundle"`, "&lt;v2&gt;", "5.0 MB of 20.0 MB",
		"rolled back: v2: SIP: no answer", "v3", `<noscript><meta http-equiv="refresh"`,
	} {
		if !strings.Contains(body, want) {
			t.Errorf("no %q in the page", want)
		}
	}
	if p := w.Header().Get("Content-Security-Policy"); !strings.Contains(p, "form-action 'self'") || !strings.Contains(p, "default-src 'none'") {
		t.Errorf("policy %q", p)
	}
	if get(http.MethodPost); posted != 1 {
		t.Error("what is posted does not get to its handler")
	}
	// A page that reloads itself would take away the file that somebody is choosing.
	st.Update.State = "idle"
	if strings.Contains(get(http.MethodGet).Body.String(), "http-equiv=\"refresh\"") {
		t.Error("it reloads while nothing happens")
	}
	st.Update = Update{}
	if body := get(http.MethodGet).Body.String(); strings.Contains(body, "<form") || !strings.Contains(body, "does not run from a card") {
		t.Error("a form without a card")
	}
	if s, err = New(Config{Status: func() Status { return st }}); err != nil {
		t.Fatal(err)
	}
	if w := get(http.MethodPost); w.Code != http.StatusMethodNotAllowed && w.Code != http.StatusNotFound {
		t.Errorf("posted to nobody: %d", w.Code)
	}
}

// The page says how many more phones the radio takes, and nothing of a Wi-Fi that is not the kit's.
func TestPageShowsTheAccessPoint(t *testing.T) {
	_, body := get(t, "/")
	for _, want := range []string{"Valley &lt;b&gt;", "channel 6", "rules of DE", "wlan0 (brcmfmac)", "<b>8 of 8</b> places taken: full", "02:00:00:00:00:01"} {
		if !strings.Contains(body, want) {
			t.Errorf("the page does not show %q", want)
		}
	}
	show := func(a Access) string {
		s, err := New(Config{Status: func() Status { return Status{Access: a} }})
		if err != nil {
			t.Fatal(err)
		}
		w := httptest.NewRecorder()
		s.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/", nil))
		return w.Body.String()
	}
	if body := show(Access{State: "on air", SSID: "V", Channel: 1, Clients: 2, Limit: 8}); !strings.Contains(body, "country not known") || strings.Contains(body, "full, go") {
		t.Error("a kit that is not full, in an unknown country")
	}
	if body := show(Access{State: "system"}); strings.Contains(body, "h-access") {
		t.Error("the Wi-Fi of the system is shown as the kit's")
	}
}

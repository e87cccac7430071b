package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"testing"

	"fieldkit/ui"
)

// answering is a kit whose page says this.
func answering(t *testing.T, code int, body []byte) string {
	t.Helper()
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/status.json" {
			w.WriteHeader(http.StatusNotFound)
			return
		}
		w.WriteHeader(code)
		_, _ = w.Write(body)
	}))
	t.Cleanup(s.Close)
	return s.URL
}

func sample(t *testing.T) []byte {
	t.Helper()
	b, err := json.Marshal(ui.Status{
		Kit:   ui.Kit{Number: 101, Name: "Hut", Mission: "alpha", UptimeS: 61},
		Board: ui.Board{State: "1 kit linked, 1 phone"},
		Kits: []ui.Neighbour{
			{Number: 102, NodeID: "02", State: "linked", RTTMS: 1.25, SinceS: 5}, {NodeID: "03", State: "stranger", Reason: "announces another mission"},
		},
		Handsets: []ui.Handset{{Number: "10101", Name: "anna", Contact: "sip:a\x1b[2J@b", Transport: "tcp", Registered: true, ExpiresS: 30}, {Number: "10102", Name: "boris"}},
		Health:   []ui.Check{{Name: "strangers", State: "warn", Cause: "1 refused", SinceS: 9}, {Name: "overlay", State: "ok"}},
		Calls:    []ui.Call{},
		Update:   ui.Update{State: "written", Why: "waits for the end of 1 calls", Version: "v1", Slot: "A", New: ui.Bundle{Version: "v2"}},
	})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestStatusInWords(t *testing.T) {
	url := answering(t, http.StatusOK, sample(t))
	for _, given := range []string{url, url + "/", strings.TrimPrefix(url, "http://")} {
		var out bytes.Buffer
		if err := (statusCommand{Kit: given}).write(t.Context(), &out); err != nil {
			t.Fatalf("%s: %v", given, err)
		}
		got := regexp.MustCompile(` {2,}`).ReplaceAllString(out.String(), " | ")
		want := `Kit 101 Hut, mission alpha, up 61 s: 1 kit linked, 1 phone

WHAT IS WRONG | WHY | HOW BAD | FOR
strangers | 1 refused | warn | 9 s

KIT | NODE-ID | STATE | ROUND TRIP | FOR
102 | 02 | linked | 1.2 ms | 5 s
- | 03 | stranger announces another mission | - | 0 s

NUMBER | NAME | CONTACT | EXPIRES IN
10101 | anna | sip:a�[2J@b tcp | 30 s

SYSTEM | SLOT | UPDATE | WHY
v1 | A | written v2 | waits for the end of 1 calls
`
		if got != want {
			t.Errorf("%s:\n%s\nwant\n%s", given, got, want)
		}
	}
}

func TestStatusAsTheKitSaysIt(t *testing.T) {
	var out bytes.Buffer
	if err := (statusCommand{Kit: answering(t, http.StatusOK, sample(t)), JSON: true}).write(t.Context(), &out); err != nil {
		t.Fatal(err)
	}
	var s ui.Status
	if err := json.Unmarshal(out.Bytes(), &s); err != nil || s.Kit.Number != 101 || len(s.Handsets) != 2 {
		t.Errorf("%v: %s", err, out.String())
	}
}

// Whatever answers there, the tool ends with a reason, and in bounded memory.
func TestStatusOfWhatIsNoKit(t *testing.T) {
	for _, c := range []struct {
		name string
		code int
		body []byte
		want string
	}{
		{"busy", http.StatusServiceUnavailable, nil, "503"},
		{"not JSON", http.StatusOK, []byte("<html>"), "invalid character"},
		{"endless", http.StatusOK, append([]byte(`{"kit":{"name":"`), bytes.Repeat([]byte("a"), 2*maxStatus)...), "too large"},
	} {
		t.Run(c.name, func(t *testing.T) {
			var out bytes.Buffer
			err := statusCommand{Kit: answering(t, c.code, c.body)}.write(t.Context(), &out)
			if err == nil || !strings.Contains(err.Error(), c.want) || out.Len() != 0 {
				t.Errorf("%v, and %d bytes", err, out.Len())
			}
		})
	}
	if err := (statusCommand{Kit: "127.0.0.1:1"}).write(t.Context(), new(bytes.Buffer)); err == nil {
		t.Error("nobody was there, and that is no error")
	}
}

func TestTraceInWords(t *testing.T) {
	for _, c := range []struct {
		trace ui.Trace
		want  string
		err   error
	}{
		{ui.Trace{To: "10101", Target: "0a"}, "Way to 10101 (0a)\nThe kit that was asked is responsible itself.\n", nil},
		{
			ui.Trace{To: "hut", Target: "0b", Hops: []ui.Hop{
				{NodeID: "0c", Number: 102, Name: "mill\x1b[2J", RTTMS: 1.26, Diagnostics: map[string]string{"B": "2", "A": "1"}}, {NodeID: "0b", RTTMS: 3},
			}},
			"Way to hut (0b)\n1 | 102 mill\ufffd[2J | 0c | 1.3 ms\n | A | 1 | \n | B | 2 | \n2 | 0b | 3.0 ms\n", nil,
		},
		{ui.Trace{To: "hut", Target: "0b", Hops: []ui.Hop{}, Error: "no answer"}, "Way to hut (0b)\n", errNoWay},
	} {
		b, err := json.Marshal(c.trace)
		if err != nil {
			t.Fatal(err)
		}
		s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path != "/trace.json" || r.URL.Query().Get("to") != "a b" {
				t.Errorf("asked for %v", r.URL)
			}
			_, _ = w.Write(b)
		}))
		var out bytes.Buffer
		err = traceCommand{Whom: "a b", Kit: s.URL}.write(t.Context(), &out)
		s.Close()
		if got := regexp.MustCompile(` {2,}`).ReplaceAllString(out.String(), " | "); got != c.want || !errors.Is(err, c.err) {
			t.Errorf("%v\n%q\nwant\n%q", err, got, c.want)
		}
	}
}

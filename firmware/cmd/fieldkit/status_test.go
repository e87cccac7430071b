package main

import (
	"bytes"
	"encoding/json"
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
0 | 03 | stranger announces another mission | - | 0 s

NUMBER | NAME | CONTACT | EXPIRES IN
10101 | anna | sip:a�[2J@b tcp | 30 s
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

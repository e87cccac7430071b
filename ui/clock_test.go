package ui_test

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"
	"time"

	"fieldkit/ui"
)

// A browser tells its time; a page of another site cannot have it told, and nothing else is taken for a time.
func TestSetClock(t *testing.T) {
	var from netip.Addr
	var told time.Time
	var refuse error
	s, err := ui.New(ui.Config{Status: func() ui.Status { return ui.Status{} }, SetClock: func(_ context.Context, a netip.Addr, at time.Time) error {
		from, told = a, at
		return refuse
	}})
	if err != nil {
		t.Fatal(err)
	}
	post := func(body string, header ...string) int {
		from, told = netip.Addr{}, time.Time{}
		r := httptest.NewRequest(http.MethodPost, "http://kit.home.arpa/clock", strings.NewReader(body))
		r.RemoteAddr = "10.73.4.5:40000"
		for i := 0; i < len(header); i += 2 {
			r.Header.Set(header[i], header[i+1])
		}
		w := httptest.NewRecorder()
		s.ServeHTTP(w, r)
		return w.Code
	}
	const good = `{"ms": 1795435200123}`
	if code := post(good, "Sec-Fetch-Site", "same-origin", "Origin", "http://kit.home.arpa"); code != http.StatusNoContent || from.String() != "10.73.4.5" || told.UnixMilli() != 1795435200123 {
		t.Errorf("%d: %v told %v", code, from, told)
	}
	for name, c := range map[string]struct {
		body   string
		header []string
		want   int
	}{
		"another site":          {good, []string{"Sec-Fetch-Site", "cross-site"}, http.StatusForbidden},
		"another origin":        {good, []string{"Origin", "http://evil.example"}, http.StatusForbidden},
		"nothing":               {"", nil, http.StatusBadRequest},
		"no number":             {`{"ms": "now"}`, nil, http.StatusBadRequest},
		"before there was time": {`{"ms": -1}`, nil, http.StatusBadRequest},
		"too much":              {`{"ms":` + strings.Repeat(" ", 1000) + `1}`, nil, http.StatusBadRequest},
	} {
		if code := post(c.body, c.header...); code != c.want || !told.IsZero() {
			t.Errorf("%s: %d, told %v", name, code, told)
		}
	}
	refuse = errors.New("known already")
	if code := post(good); code != http.StatusConflict {
		t.Errorf("refused: %d", code)
	}
	// Where the clock is not the kit's, nobody is asked.
	if s, err = ui.New(ui.Config{Status: func() ui.Status { return ui.Status{} }}); err != nil {
		t.Fatal(err)
	}
	if code := post(good); code != http.StatusNotFound && code != http.StatusMethodNotAllowed {
		t.Errorf("without a clock: %d", code)
	}
}

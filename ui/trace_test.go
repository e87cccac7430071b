package ui

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func TestTrace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		asked := ""
		s, err := New(Config{Status: sample, Trace: func(_ context.Context, to string) (Trace, error) {
			asked = to
			switch to {
			case "nobody":
				return Trace{}, fmt.Errorf("%w: %q", ErrNoTarget, to)
			case "later":
				return Trace{}, ErrNotNow
			}
			return Trace{To: to, Hops: []Hop{{NodeID: "0a", RTTMS: 1.5}}}, nil
		}})
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range []struct {
			query, asked string
			code         int
		}{
			{"", "", http.StatusBadRequest},
			{"?to=", "", http.StatusBadRequest},
			{"?to=" + strings.Repeat("x", 256), "", http.StatusBadRequest},
			{"?to=10101", "10101", http.StatusOK},
			{"?to=ada%20l", "ada l", http.StatusOK},
			{"?to=nobody", "nobody", http.StatusNotFound},
			{"?to=later", "later", http.StatusServiceUnavailable},
		} {
			time.Sleep(traceEvery)
			synctest.Wait()
			asked = ""
			w := httptest.NewRecorder()
			s.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/trace.json"+c.query, nil))
			if w.Code != c.code || asked != c.asked {
				t.Errorf("%q: %d, asked for %q", c.query, w.Code, asked)
			}
			var got Trace
			if err := json.Unmarshal(w.Body.Bytes(), &got); (err == nil) != (c.code == http.StatusOK) {
				t.Errorf("%q: %s", c.query, w.Body)
			} else if err == nil && (got.To != c.asked || len(got.Hops) != 1 || got.Hops[0].RTTMS != 1.5) {
				t.Errorf("%q: %+v", c.query, got)
			}
		}
		// The next one comes too soon.
		time.Sleep(traceEvery)
		synctest.Wait()
		for i, want := range []int{http.StatusOK, http.StatusTooManyRequests, http.StatusTooManyRequests} {
			w := httptest.NewRecorder()
			s.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/trace.json?to=10101", nil))
			if w.Code != want {
				t.Errorf("request %d: %d, want %d", i, w.Code, want)
			}
		}
		time.Sleep(traceEvery)
	})
}

package ui

import (
	"encoding/json"
	"net/http"
	"net/netip"
	"time"
)

// maxClock bounds the body of a request to /clock.
const maxClock = 256 // bytes

// serveClock takes the time of a browser: {"ms": milliseconds since 1970}. The page sends it while the kit does not know
// the time, which is the rest of what a phone knows that a kit does not. A page of another origin cannot.
func (s *Server) serveClock(w http.ResponseWriter, r *http.Request) {
	var body struct {
		MS int64 `json:"ms"`
	}
	from, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil {
		http.Error(w, "who are you?", http.StatusForbidden)
		return
	}
	if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxClock)).Decode(&body); err != nil || body.MS <= 0 {
		http.Error(w, `want {"ms": milliseconds since 1970}`, http.StatusBadRequest)
		return
	}
	if err := s.cfg.SetClock(r.Context(), from.Addr(), time.UnixMilli(body.MS)); err != nil {
		http.Error(w, err.Error(), http.StatusConflict)
		return
	}
	w.WriteHeader(http.StatusNoContent)
}

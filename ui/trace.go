package ui

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"time"
)

// Trace is the way of a message through the overlay, from the kit that was asked to the kit that is responsible.
type Trace struct {
	To     string `json:"to"`     // who was asked for, as asked
	Target string `json:"target"` // Node-ID or Resource-ID, in hex
	Hops   []Hop  `json:"hops"`   // in order; none: the kit asked is responsible itself
	// Error says where the way ends when it does not lead to the responsible kit; the hops up to there are listed.
	Error string `json:"error,omitempty"`
}

// Hop is one kit on the way.
type Hop struct {
	NodeID string  `json:"node_id"`
	Number int     `json:"number,omitempty"`
	Name   string  `json:"name,omitempty"`
	RTTMS  float64 `json:"rtt_ms"`
	// Diagnostics is what the kit told of itself (RFC 7851 §5.3), to those whom the mission's document names.
	Diagnostics map[string]string `json:"diagnostics,omitempty"`
}

// What a Config.Trace may refuse with.
var (
	ErrNoTarget = errors.New("nobody of that name") // answered with 404
	ErrNotNow   = errors.New("not now")             // answered with 503
)

// One trace at a time, and bounded: each costs the kits on the way a signature.
const (
	traceTime  = 15 * time.Second // below what a connection may take
	traceEvery = time.Second
)

// serveTrace answers /trace.json?to=WHOM.
func (s *Server) serveTrace(w http.ResponseWriter, r *http.Request) {
	to := r.URL.Query().Get("to")
	if to == "" || len(to) > 255 {
		http.Error(w, "who is to be traced: ?to=NUMBER, a name, a kit's number or a Node-ID", http.StatusBadRequest)
		return
	}
	select {
	case s.tracing <- struct{}{}:
		time.AfterFunc(traceEvery, func() { <-s.tracing })
	default:
		w.Header().Set("Retry-After", "1")
		http.Error(w, "one trace a second", http.StatusTooManyRequests)
		return
	}
	ctx, cancel := context.WithTimeout(r.Context(), traceTime)
	defer cancel()
	t, err := s.cfg.Trace(ctx, to)
	switch {
	case errors.Is(err, ErrNoTarget):
		http.Error(w, err.Error(), http.StatusNotFound)
		return
	case err != nil:
		http.Error(w, err.Error(), http.StatusServiceUnavailable)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	if err := e.Encode(t); err != nil {
		s.cfg.Log.Debug("trace not sent", "err", err)
	}
}

// Package ui serves a kit's status: one page for people and the same content as JSON for programs.
//
// It shows and changes nothing, so it needs no login, and it loads nothing from outside the kit. The one thing that can
// be sent to it, an update, goes to a handler of the composition root, which believes signatures alone.
// The package knows neither the overlay nor SIP: the composition root hands it functions that
// return a Status, and the way to somebody. A Server may be used from any goroutine.
package ui

import (
	"context"
	"embed"
	"encoding/json"
	"errors"
	"fmt"
	"html/template"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"time"

	"golang.org/x/net/netutil"
)

//go:embed assets
var assets embed.FS

// maxConnections bounds the sockets that one listener's clients may hold; more wait in the
// kernel's queue. A page is served in milliseconds, so this is far above what a kit's radio carries.
const maxConnections = 64

// Config is what a Server shows. Its functions are called from the goroutine of each request.
type Config struct {
	Status func() Status // the picture to show; required
	// Trace finds the way to a person or a kit; nil: there is no /trace.json. At most one runs in a second.
	Trace func(ctx context.Context, to string) (Trace, error)
	// Update takes what is sent to /update by POST and leads back there; nil: there is no such page.
	Update http.Handler
	// SetClock takes the time of a browser that shows the page, see serveClock; nil: nobody is asked for it.
	SetClock func(ctx context.Context, from netip.Addr, at time.Time) error
	Log      *slog.Logger // nil discards
}

// Server renders a kit's status.
type Server struct {
	cfg     Config
	page    *template.Template
	mux     *http.ServeMux
	tracing chan struct{} // holds one while there may be no other trace
}

// New returns a Server.
func New(cfg Config) (*Server, error) {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	page, err := template.New("page.html").Funcs(template.FuncMap{
		"age":   Age,
		"short": short,
		"round": func(f float64) string { return fmt.Sprintf("%.1f", f) },
		"mb":    func(n int64) string { return fmt.Sprintf("%.1f MB", float64(n)/1e6) },
	}).ParseFS(assets, "assets/page.html", "assets/update.html")
	if err != nil {
		return nil, fmt.Errorf("status page template: %w", err)
	}
	static, err := fs.Sub(assets, "assets")
	if err != nil {
		return nil, fmt.Errorf("status page assets: %w", err)
	}
	s := &Server{cfg: cfg, page: page, mux: http.NewServeMux(), tracing: make(chan struct{}, 1)}
	s.mux.HandleFunc("GET /{$}", s.servePage("page.html"))
	s.mux.HandleFunc("GET /fragment", s.servePage("content"))
	s.mux.HandleFunc("GET /status.json", s.serveJSON)
	if cfg.Trace != nil {
		s.mux.HandleFunc("GET /trace.json", s.serveTrace)
	}
	if cfg.Update != nil {
		s.mux.HandleFunc("GET /update", s.serveUpdate)
		s.mux.Handle("POST /update", cfg.Update)
	}
	if cfg.SetClock != nil {
		s.mux.Handle("POST /clock", http.NewCrossOriginProtection().Handler(http.HandlerFunc(s.serveClock)))
	}
	s.mux.Handle("GET /assets/", http.StripPrefix("/assets/", http.FileServerFS(static)))
	return s, nil
}

// policy is the Content-Security-Policy of everything that is served.
const policy = "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; img-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"

// ServeHTTP answers one request with the headers that keep the page to itself.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h := w.Header()
	h.Set("Content-Security-Policy", policy)
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Referrer-Policy", "no-referrer")
	h.Set("Cross-Origin-Resource-Policy", "same-origin")
	h.Set("Cache-Control", "no-store")
	s.mux.ServeHTTP(w, r)
}

// Serve answers on ln until ctx ends, then closes ln. It returns nil when ctx ended it.
func (s *Server) Serve(ctx context.Context, ln net.Listener) error { return s.ServeBehind(ctx, ln, s) }

// ServeBehind is Serve with a handler in front, which passes on to s what is for it.
func (s *Server) ServeBehind(ctx context.Context, ln net.Listener, front http.Handler) error {
	srv := &http.Server{
		Handler:           front,
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       10 * time.Second,
		WriteTimeout:      20 * time.Second,
		IdleTimeout:       30 * time.Second,
		MaxHeaderBytes:    16 << 10,
		ErrorLog:          slog.NewLogLogger(s.cfg.Log.Handler(), slog.LevelDebug),
	}
	stop := context.AfterFunc(ctx, func() { _ = srv.Close() })
	defer stop()
	if err := srv.Serve(netutil.LimitListener(newFair(ln), maxConnections)); ctx.Err() == nil && !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("status page on %s: %w", ln.Addr(), err)
	}
	return nil
}

func (s *Server) servePage(name string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		if err := s.page.ExecuteTemplate(w, name, s.cfg.Status()); err != nil {
			s.cfg.Log.Debug("status page not sent", "err", err)
		}
	}
}

// serveUpdate is the one page with a form on it. It works without scripts, too.
func (s *Server) serveUpdate(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Security-Policy", strings.Replace(policy, "form-action 'none'", "form-action 'self'", 1))
	s.servePage("update.html")(w, r)
}

func (s *Server) serveJSON(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "application/json")
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	if err := e.Encode(s.cfg.Status()); err != nil {
		s.cfg.Log.Debug("status not sent", "err", err)
	}
}

// Age writes a number of seconds as a person reads it: "8 s", "3 min", "2 h 5 min".
func Age(seconds float64) string {
	switch d := int(seconds); {
	case d < 90:
		return fmt.Sprintf("%d s", d)
	case d < 90*60:
		return fmt.Sprintf("%d min", d/60)
	default:
		return fmt.Sprintf("%d h %d min", d/3600, d%3600/60)
	}
}

// short is the first eight digits of a Node-ID, enough to tell a handful of kits apart.
func short(id string) string {
	if len(id) > 8 {
		return id[:8]
	}
	return id
}

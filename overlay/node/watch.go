package node

import "sync"

// watchers are who wants to know that a Snapshot would show something new. A leaf that locks only itself.
type watchers struct {
	mu   sync.Mutex
	list map[chan struct{}]struct{}
}

// Subscribe returns a channel that receives after something changed: links, ring, stored data, strangers.
// Changes that come faster than they are received are folded into one. cancel ends it.
func (n *Node) Subscribe() (changes <-chan struct{}, cancel func()) {
	c := make(chan struct{}, 1)
	w := &n.watchers
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.list == nil {
		w.list = make(map[chan struct{}]struct{})
	}
	w.list[c] = struct{}{}
	return c, func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		delete(w.list, c)
	}
}

// tell never blocks.
func (w *watchers) tell() {
	w.mu.Lock()
	defer w.mu.Unlock()
	for c := range w.list {
		select {
		case c <- struct{}{}:
		default:
		}
	}
}

// handlers are who takes AppAttach connections, by application. A leaf that locks only itself.
type handlers struct {
	mu    sync.Mutex
	byApp map[uint16]func(AppConn)
}

// HandleApp makes f take the connections that others open for an application (RFC 6940 §14.5); nil ends
// it. f is called in a goroutine of its own and owns the connection.
func (n *Node) HandleApp(app uint16, f func(AppConn)) {
	h := &n.apps
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.byApp == nil {
		h.byApp = make(map[uint16]func(AppConn))
	}
	if f == nil {
		delete(h.byApp, app)
		return
	}
	h.byApp[app] = f
}

func (h *handlers) get(app uint16) func(AppConn) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.byApp[app]
}

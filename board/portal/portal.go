// Package portal keeps handsets on a Wi-Fi without Internet. A phone that joins asks a well-known web server for a
// well-known answer; without it, it takes the network for useless and leaves, or asks a person to sign in. The kit gives
// those answers itself, for the names of those servers only (Names is for the kit's name server), and shows everybody
// else who comes by another name the way to its own page.
//
// It lies about nothing but that: what is asked for over TLS is not answered, since no kit has such a certificate, so a
// handset that checks that way, too, finds a network with partial connectivity, which it keeps.
//
// The handler holds no state and may be used by any goroutine. It also keeps other sites' scripts from the pages behind
// it: a name that somebody made to lead to the kit (DNS rebinding) is none of its own.
package portal

import (
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
)

// check is one connectivity check: what is asked for, and what has to be answered, to the byte.
type check struct {
	host   string
	path   string // "" is any
	status int
	kind   string // Content-Type
	body   string
}

const (
	html  = "text/html"
	plain = "text/plain"

	apple      = "<HTML><HEAD><TITLE>Success</TITLE></HEAD><BODY>Success</BODY></HTML>\n"
	firefox    = `<meta http-equiv="refresh" content="0;url=https://support.mozilla.org/kb/captive-portal"/>`
	networkMgr = "NetworkManager is online\n"
)

// checks are those of the systems that people bring along.
var checks = []check{
	// iOS and macOS ask with several names, since iOS 7 with paths of their own making.
	{"captive.apple.com", "", 200, html, apple},
	{"www.apple.com", "/library/test/success.html", 200, html, apple},
	{"www.appleiphonecell.com", "", 200, html, apple},
	{"www.airport.us", "", 200, html, apple},
	{"www.ibook.info", "", 200, html, apple},
	{"www.itools.info", "", 200, html, apple},
	{"www.thinkdifferent.us", "", 200, html, apple},
	// Android and ChromeOS, and what makers of handsets put in the place of Google's names.
	{"connectivitycheck.gstatic.com", "/generate_204", 204, "", ""},
	{"connectivitycheck.android.com", "/generate_204", 204, "", ""},
	{"clients1.google.com", "/generate_204", 204, "", ""},
	{"clients3.google.com", "/generate_204", 204, "", ""},
	{"play.googleapis.com", "/generate_204", 204, "", ""},
	{"www.gstatic.com", "/generate_204", 204, "", ""},
	{"www.google.com", "/generate_204", 204, "", ""},
	{"www.google.com", "/gen_204", 204, "", ""},
	{"g.cn", "/generate_204", 204, "", ""},
	{"connectivity.samsung.com.cn", "/generate_204", 204, "", ""},
	{"connectivitycheck.platform.hicloud.com", "/generate_204", 204, "", ""},
	{"connectivitycheck.cbg-app.huawei.com", "/generate_204", 204, "", ""},
	{"connect.rom.miui.com", "/generate_204", 204, "", ""},
	{"conn1.oppomobile.com", "/generate_204", 204, "", ""},
	{"conn2.oppomobile.com", "/generate_204", 204, "", ""},
	{"wifi.vivo.com.cn", "/generate_204", 204, "", ""},
	{"fireoscaptiveportal.com", "/generate_204", 204, "", ""},
	// Windows, which also wants one address of the name server, see Names.
	{"www.msftconnecttest.com", "/connecttest.txt", 200, plain, "Microsoft Connect Test"},
	{"www.msftncsi.com", "/ncsi.txt", 200, plain, "Microsoft NCSI"},
	{"detectportal.firefox.com", "/success.txt", 200, plain, "success\n"},
	{"detectportal.firefox.com", "/canonical.html", 200, html, firefox},
	// NetworkManager, as distributions set it up.
	{"nmcheck.gnome.org", "/check_network_status.txt", 200, plain, networkMgr},
	{"network-test.debian.org", "/nm", 200, plain, networkMgr},
	{"connectivity-check.ubuntu.com", "/", 204, "", ""},
	{"fedoraproject.org", "/static/hotspot.txt", 200, plain, "OK"},
	{"ping.archlinux.org", "/nm-check.txt", 200, plain, networkMgr},
	{"conncheck.opensuse.org", "/", 200, plain, networkMgr},
	{"networkcheck.kde.org", "/", 200, plain, "OK\n"},
}

// Names are the names that must lead to the kit for its answers to be heard, and those that stand for something else.
func Names() map[string]netip.Addr {
	r := map[string]netip.Addr{
		// Windows looks whether it is told exactly this, and asks nobody there.
		"dns.msftncsi.com": netip.AddrFrom4([4]byte{131, 107, 255, 255}),
	}
	for _, c := range checks {
		r[c.host] = netip.Addr{} // the kit
	}
	return r
}

// Handler answers connectivity checks and shows the way to Home.
type Handler struct {
	home  string
	own   func(host string) bool
	next  http.Handler
	known map[string][]check
}

// New makes a Handler in front of next, which gets the requests for the kit's own names: those of which own says so, in
// lower case and without a port, and addresses. home is an absolute URL of the kit's page.
func New(home string, own func(host string) bool, next http.Handler) *Handler {
	h := &Handler{home: home, own: own, next: next, known: map[string][]check{}}
	for _, c := range checks {
		h.known[c.host] = append(h.known[c.host], c)
	}
	return h
}

// ServeHTTP answers one request.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	host := hostOf(r)
	if _, err := netip.ParseAddr(host); err == nil || host == "" || host == "localhost" || h.own(host) {
		h.next.ServeHTTP(w, r)
		return
	}
	w.Header().Set("Cache-Control", "no-store")
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		http.Error(w, "this is "+h.home, http.StatusMisdirectedRequest) // RFC 9110 §15.5.20
		return
	}
	for _, c := range h.known[host] {
		if c.path == "" || c.path == r.URL.Path {
			c.answer(w, r)
			return
		}
	}
	http.Redirect(w, r, h.home, http.StatusFound)
}

func (c check) answer(w http.ResponseWriter, r *http.Request) {
	header := w.Header()
	header.Set("X-NetworkManager-Status", "online") // what NetworkManager looks for first
	if c.status == http.StatusNoContent {
		w.WriteHeader(c.status)
		return
	}
	header.Set("Content-Type", c.kind)
	header.Set("Content-Length", strconv.Itoa(len(c.body)))
	w.WriteHeader(c.status)
	if r.Method == http.MethodGet {
		_, _ = w.Write([]byte(c.body)) // who went away does not need it
	}
}

// hostOf is the name that a request is for, in lower case, without port and brackets.
func hostOf(r *http.Request) string {
	host := r.Host
	if name, _, err := net.SplitHostPort(host); err == nil {
		host = name
	}
	return strings.TrimSuffix(strings.ToLower(strings.Trim(host, "[]")), ".")
}

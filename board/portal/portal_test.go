package portal

import (
	"io"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"testing"
)

func handler() *Handler {
	page := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "the page") })
	return New("http://kit.home.arpa/", func(host string) bool { return host == "kit.home.arpa" }, page)
}

func get(method, url string) *http.Response {
	w := httptest.NewRecorder()
	handler().ServeHTTP(w, httptest.NewRequest(method, url, nil))
	return w.Result()
}

// What each system looks for, as its maker's server answers.
func TestConnectivityChecks(t *testing.T) {
	for url, want := range map[string]struct {
		status int
		body   string
	}{
		"http://captive.apple.com/hotspot-detect.html":               {200, "<HTML><HEAD><TITLE>Success</TITLE></HEAD><BODY>Success</BODY></HTML>\n"},
		"http://captive.apple.com/bag7/wXy.html":                     {200, "<HTML><HEAD><TITLE>Success</TITLE></HEAD><BODY>Success</BODY></HTML>\n"},
		"http://www.apple.com/library/test/success.html":             {200, "<HTML><HEAD><TITLE>Success</TITLE></HEAD><BODY>Success</BODY></HTML>\n"},
		"http://connectivitycheck.gstatic.com/generate_204":          {204, ""},
		"http://ConnectivityCheck.gstatic.com:80/generate_204":       {204, ""},
		"http://www.google.com/gen_204":                              {204, ""},
		"http://connectivitycheck.platform.hicloud.com/generate_204": {204, ""},
		"http://www.msftconnecttest.com/connecttest.txt":             {200, "Microsoft Connect Test"},
		"http://www.msftncsi.com/ncsi.txt":                           {200, "Microsoft NCSI"},
		"http://detectportal.firefox.com/success.txt?ipv4":           {200, "success\n"},
		"http://detectportal.firefox.com/canonical.html":             {200, `<meta http-equiv="refresh" content="0;url=https://support.mozilla.org/kb/captive-portal"/>`},
		"http://nmcheck.gnome.org/check_network_status.txt":          {200, "NetworkManager is online\n"},
		"http://connectivity-check.ubuntu.com/":                      {204, ""},
		"http://kit.home.arpa/":                                      {200, "the page"},
		"http://kit.home.arpa./assets/x":                             {200, "the page"},
		"http://10.73.0.1/status.json":                               {200, "the page"},
		"http://[fd00::1]:80/":                                       {200, "the page"},
		"http://localhost:8080/":                                     {200, "the page"},
	} {
		r := get(http.MethodGet, url)
		body, _ := io.ReadAll(r.Body)
		if r.StatusCode != want.status || string(body) != want.body {
			t.Errorf("%s: %d %q", url, r.StatusCode, body)
		}
	}
	if r := get(http.MethodHead, "http://captive.apple.com/"); r.StatusCode != 200 || r.ContentLength != 69 {
		t.Errorf("HEAD: %v", r)
	}
}

func TestOthersAreShownTheWay(t *testing.T) {
	for _, url := range []string{"http://www.google.com/", "http://www.apple.com/iphone", "http://evil.example/status.json", "http://msftconnecttest.com/redirect"} {
		if r := get(http.MethodGet, url); r.StatusCode != http.StatusFound || r.Header.Get("Location") != "http://kit.home.arpa/" || r.Header.Get("Cache-Control") != "no-store" {
			t.Errorf("%s: %v", url, r)
		}
	}
}

// A site whose name was made to lead to the kit must not get through to what a person may do there.
func TestRebinding(t *testing.T) {
	for _, method := range []string{http.MethodPost, http.MethodPut, http.MethodDelete, http.MethodOptions} {
		for _, url := range []string{"http://evil.example/clock", "http://captive.apple.com/clock"} {
			if r := get(method, url); r.StatusCode != http.StatusMisdirectedRequest {
				t.Errorf("%s %s: %d", method, url, r.StatusCode)
			}
		}
	}
}

func TestNames(t *testing.T) {
	n := Names()
	if n["dns.msftncsi.com"] != netip.MustParseAddr("131.107.255.255") {
		t.Error("Windows does not find its address")
	}
	if a, ok := n["captive.apple.com"]; !ok || a.IsValid() || len(n) < 30 {
		t.Errorf("%d names", len(n))
	}
}

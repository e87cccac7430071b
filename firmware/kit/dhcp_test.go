package kit

import (
	"cmp"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	"github.com/miekg/dns"

	"fieldkit/ui"
)

// serving is a still kit that makes the handsets' network.
func serving(t *testing.T) *Kit {
	t.Helper()
	k := still(t)
	k.name, k.number, k.cfg.Access.Enabled = "Maple 412", 412, true
	if err := k.newHandsetNetwork(); err != nil {
		t.Fatal(err)
	}
	return k
}

func TestNamesOfAKit(t *testing.T) {
	k := serving(t)
	if got, want := k.ownNames(), []string{"kit.home.arpa", "kit-412.home.arpa", "maple-412.home.arpa"}; !slices.Equal(got, want) {
		t.Errorf("names %v", got)
	}
	overlay := k.mission.Load().Overlay
	for name, want := range map[string]string{
		"kit.home.arpa.": "A", "maple-412.home.arpa.": "A", overlay + ".": "A", "captive.apple.com.": "A", "_sip._udp." + overlay + ".": "SRV", "www.example.org.": "",
	} {
		q := new(dns.Msg)
		q.SetQuestion(name, dns.StringToType[cmp.Or(want, "A")])
		r := k.zone().Answer(q, dns.MaxMsgSize)
		if (len(r.Answer) == 1) != (want != "") {
			t.Errorf("%s: %v", name, r)
		}
	}
}

// No handset gets a name under which others look for the kit, or for who sets them up.
func TestNamesThatNoHandsetGets(t *testing.T) {
	k := serving(t)
	for _, label := range []string{"kit", "kit-412", "kit-101", "maple-412", "wpad", "isatap", "localhost", "sip"} {
		if !k.reservedLabel(label) {
			t.Errorf("a handset may be called %s", label)
		}
	}
	if above, ok := strings.CutSuffix(k.mission.Load().Overlay, ".home.arpa"); ok {
		parts := strings.Split(above, ".")
		if last := parts[len(parts)-1]; !k.reservedLabel(last) {
			t.Errorf("a handset may be called %s, which is above the mission's domain", last)
		}
	}
	if k.reservedLabel("anna") {
		t.Error("none may be called anna")
	}
}

// In front of the page stand the connectivity checks, where the kit is all that its handsets have; elsewhere nothing does.
func TestWhatStandsInFrontOfThePage(t *testing.T) {
	page := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "page") })
	get := func(k *Kit, host string) string {
		w := httptest.NewRecorder()
		k.inFront(page).ServeHTTP(w, httptest.NewRequest(http.MethodGet, "http://"+host+"/generate_204", nil))
		return http.StatusText(w.Code) + " " + w.Body.String()
	}
	k := serving(t)
	for host, want := range map[string]string{
		"connectivitycheck.gstatic.com": "No Content ", "kit.home.arpa": "OK page", "maple-412.home.arpa": "OK page", k.mission.Load().Overlay: "OK page", "10.73.0.1": "OK page",
	} {
		if got := get(k, host); got != want {
			t.Errorf("%s: %q", host, got)
		}
	}
	if got := get(k, "evil.example"); !strings.HasPrefix(got, "Found") {
		t.Errorf("another name: %q", got)
	}
	if got := get(still(t), "connectivitycheck.gstatic.com"); got != "OK page" {
		t.Errorf("on a system that makes its own network: %q", got)
	}
}

func TestHandsetNetworkInTheStatus(t *testing.T) {
	var s ui.Status
	serving(t).networkStatus(&s)
	if s.Access.Leases != 0 || len(s.Counters) < 15 {
		t.Errorf("%+v", s)
	}
	var none ui.Status
	still(t).networkStatus(&none)
	if len(none.Counters) != 0 {
		t.Errorf("%+v", none.Counters)
	}
}

package discovery

import (
	"errors"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/grandcat/zeroconf"
	"github.com/miekg/dns"
)

const (
	idA = "00112233445566778899aabbccddeeff"
	idB = "ffeeddccbbaa99887766554433221100"
)

var goodText = Text{Overlay: "deadbeef", Sequence: 7, DocumentHash: strings.Repeat("ab", 32), Number: 412, Name: `MAPLE "Ü" \ 1=2`, System: 1790000000, UpdatePort: 6085}

// overTheWire packs the strings into a TXT record and reads them back, as the
// library does between two kits.
func overTheWire(t *testing.T, txt []string) []string {
	t.Helper()
	rr := &dns.TXT{Hdr: dns.RR_Header{Name: "x.", Rrtype: dns.TypeTXT, Class: dns.ClassINET}, Txt: txt}
	buf := make([]byte, 4096)
	n, err := dns.PackRR(rr, buf, 0, nil, false)
	if err != nil {
		t.Fatal(err)
	}
	back, _, err := dns.UnpackRR(buf[:n], 0)
	if err != nil {
		t.Fatal(err)
	}
	return back.(*dns.TXT).Txt
}

func TestTextRoundTrip(t *testing.T) {
	for _, want := range []Text{goodText, {Overlay: "00", Name: ""}, {Overlay: "ff", Sequence: 65535, Number: 999, Name: "Ä\\034"}} {
		got, id, ok := parseText(overTheWire(t, want.strings(idA)))
		if !ok || id != idA || got != want {
			t.Errorf("got %+v %s %v, want %+v", got, id, ok, want)
		}
	}
}

func TestTextLimits(t *testing.T) {
	for name, text := range map[string]Text{
		"no overlay":         {},
		"overlay not hex":    {Overlay: "xyz"},
		"overlay upper case": {Overlay: "AB"},
		"overlay too long":   {Overlay: strings.Repeat("ab", MaxHash+1)},
		"document not hex":   {Overlay: "ab", DocumentHash: "-"},
		"number too large":   {Overlay: "ab", Number: 1000},
		"name too long":      {Overlay: "ab", Name: strings.Repeat("x", MaxName+1)},
		"name not UTF-8":     {Overlay: "ab", Name: "\xff"},
		"name with controls": {Overlay: "ab", Name: "\x1b[2J"},
	} {
		if err := text.check(); !errors.Is(err, ErrConfig) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := goodText.check(); err != nil {
		t.Error(err)
	}
}

// RFC 6763 §6.4: "If a client receives a TXT record containing the same key
// more than once, then the client MUST silently ignore all but the first
// occurrence of that attribute."
func TestFirstOccurrenceOfAKeyCounts(t *testing.T) {
	txt := append(goodText.strings(idA), "name=other", "overlay=00")
	if got, _, ok := parseText(overTheWire(t, txt)); !ok || got != goodText {
		t.Errorf("got %+v %v", got, ok)
	}
}

// RFC 6763 §6.4: "Case is ignored when interpreting a key"; §6.6 and §6.4 let
// clients skip what they do not know.
func TestKeysWithoutCaseAndUnknownKeys(t *testing.T) {
	txt := []string{"flag", "x=y", ""}
	for _, s := range goodText.strings(idA) {
		k, v, _ := strings.Cut(s, "=")
		txt = append(txt, strings.ToUpper(k)+"="+v)
	}
	if got, _, ok := parseText(overTheWire(t, txt)); !ok || got != goodText {
		t.Errorf("got %+v %v", got, ok)
	}
}

func entry() *zeroconf.ServiceEntry {
	e := zeroconf.NewServiceEntry(idB, Service, domain)
	e.Port, e.Text = 6084, goodText.strings(idB)
	for _, a := range []string{"10.9.0.2", "10.8.0.2", "0.0.0.0", "224.0.0.251", "10.73.0.1", "10.9.0.2"} {
		e.AddrIPv4 = append(e.AddrIPv4, netip.MustParseAddr(a).AsSlice())
	}
	for _, a := range []string{"fe80::2", "fd00::2", "2001:db8::1", "::1", "ff02::fb", "::ffff:10.9.0.3"} {
		e.AddrIPv6 = append(e.AddrIPv6, netip.MustParseAddr(a).AsSlice())
	}
	return e
}

func testInterface() Interface {
	return Interface{Name: "eth0", Index: 2, Addrs: []netip.Prefix{
		netip.MustParsePrefix("10.9.0.1/24"), netip.MustParsePrefix("10.73.0.1/16"),
		netip.MustParsePrefix("fe80::1/64"), netip.MustParsePrefix("fd00::1/64"),
	}}
}

func notHandset(a netip.Addr) bool { return !netip.MustParsePrefix("10.73.0.0/16").Contains(a) }

func TestEntryAddresses(t *testing.T) {
	p, ok := parseEntry(entry(), testInterface(), notHandset)
	if !ok {
		t.Fatal("good entry refused")
	}
	var got []string
	for _, a := range p.Addrs {
		got = append(got, a.String())
	}
	want := []string{"10.9.0.2:6084", "10.9.0.3:6084", "[fd00::2]:6084", "[fe80::2%eth0]:6084"}
	if !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	if p.NodeID != idB || p.Interface != "eth0" || p.Text != goodText {
		t.Errorf("got %+v", p)
	}
}

func TestHostileEntries(t *testing.T) {
	for name, change := range map[string]func(*zeroconf.ServiceEntry){
		"no port":           func(e *zeroconf.ServiceEntry) { e.Port = 0 },
		"port too large":    func(e *zeroconf.ServiceEntry) { e.Port = 65536 },
		"name not hex":      func(e *zeroconf.ServiceEntry) { e.Instance = strings.Repeat("x", 32) },
		"name too short":    func(e *zeroconf.ServiceEntry) { e.Instance = idB[:30] },
		"name too long":     func(e *zeroconf.ServiceEntry) { e.Instance = idB + idB },
		"odd name":          func(e *zeroconf.ServiceEntry) { e.Instance = idB + "0" },
		"no text":           func(e *zeroconf.ServiceEntry) { e.Text = nil },
		"text of another":   func(e *zeroconf.ServiceEntry) { e.Text = goodText.strings(idA) },
		"other version":     func(e *zeroconf.ServiceEntry) { e.Text[0] = "txtvers=2" },
		"sequence too big":  func(e *zeroconf.ServiceEntry) { e.Text[3] = "seq=65536" },
		"negative sequence": func(e *zeroconf.ServiceEntry) { e.Text[3] = "seq=-1" },
		"number not one":    func(e *zeroconf.ServiceEntry) { e.Text[5] = "num=four" },
		"terminal commands": func(e *zeroconf.ServiceEntry) { e.Text[6] = `name=\027[2J` },
		"text out of bound": func(e *zeroconf.ServiceEntry) { e.Text = append(make([]string, maxTexts), e.Text...) },
	} {
		e := entry()
		change(e)
		if p, ok := parseEntry(e, testInterface(), notHandset); ok {
			t.Errorf("%s: accepted as %+v", name, p)
		}
	}
	e := entry()
	e.Instance = strings.ToUpper(e.Instance)
	if p, ok := parseEntry(e, testInterface(), notHandset); !ok || p.NodeID != idB {
		t.Error("case of the name matters")
	}
	e.AddrIPv4 = nil
	for i := range 200 {
		e.AddrIPv4 = append(e.AddrIPv4, []byte{10, 9, 0, byte(i + 1)})
	}
	if p, _ := parseEntry(e, testInterface(), notHandset); len(p.Addrs) != MaxAddresses {
		t.Errorf("%d addresses kept", len(p.Addrs))
	}
}

func FuzzParseText(f *testing.F) {
	f.Add(strings.Join(goodText.strings(idA), "\n"))
	f.Add("txtvers=1\noverlay=00\nname=\\")
	f.Add("txtvers=1\noverlay=00\nupdate=6085/x")
	f.Fuzz(func(t *testing.T, s string) {
		text, id, ok := parseText(strings.Split(s, "\n"))
		if !ok {
			return
		}
		if err := text.check(); err != nil {
			t.Fatal(err)
		}
		back, id2, ok := parseText(text.strings(id))
		if !ok || id2 != id || back != text {
			t.Fatalf("%+v became %+v", text, back)
		}
	})
}

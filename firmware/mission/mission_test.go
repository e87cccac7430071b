package mission

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"fieldkit/overlay/ident"
	"fieldkit/overlay/wire"
)

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

func TestNewMission(t *testing.T) {
	m := must(New("Sturm über Köln 7", Options{}))
	if !regexp.MustCompile(`^sturm-ber-k-ln-7-[a-z]{4}\.mission\.home\.arpa$`).MatchString(m.Overlay) {
		t.Errorf("overlay %q", m.Overlay)
	}
	if m.WiFi.SSID != "Sturm über Köln 7" || !regexp.MustCompile(`^([a-z]{4}-){5}[a-z]{4}$`).MatchString(m.WiFi.Passphrase) {
		t.Errorf("Wi-Fi %+v", m.WiFi)
	}
	d := m.Document()
	if d.InstanceName != m.Overlay || d.Sequence != 1 || d.NoICE || !m.HasRootKey() || m.Founded || d.InitialTTL != 16 || d.TurnDensity != 2 {
		t.Errorf("%+v", d)
	}
	for _, kind := range []wire.KindID{wire.KindSIPRegistration, wire.KindCertificateByNode, wire.KindCertificateByUser} {
		if _, ok := d.Kind(kind); !ok {
			t.Errorf("Kind %v missing", kind)
		}
	}
	if other := must(New("Sturm über Köln 7", Options{})); other.Overlay == m.Overlay && other.WiFi == m.WiFi || other.Same(m) {
		t.Error("two missions of one name are the same")
	}
	if m := must(New("x", Options{Overlay: "a.example", SSID: "S", Configure: func(d *ident.Document) { d.InitialTTL = 20 }})); m.Overlay != "a.example" || m.WiFi.SSID != "S" || m.Document().InitialTTL != 20 {
		t.Errorf("options: %+v", m)
	}
	for _, name := range []string{"", " a", "a\nb", strings.Repeat("a", 65), "a\x00", "\xff"} {
		if _, err := New(name, Options{}); !errors.Is(err, ErrInvalid) {
			t.Errorf("name %q: %v", name, err)
		}
	}
	long := must(New(strings.Repeat("ä", 32), Options{}))
	if len(long.WiFi.SSID) != 32 || strings.ContainsRune(long.WiFi.SSID, '\uFFFD') {
		t.Errorf("SSID %q", long.WiFi.SSID)
	}
	f := must(Found())
	if !f.Founded || f.Overlay == must(Found()).Overlay && f.Same(m) {
		t.Errorf("%+v", f)
	}
}

func TestMissionRoundTrip(t *testing.T) {
	m := must(New("alpha", Options{}))
	must(m.AddHandset(`Zoë "the ' radio" \ =#`, 100))
	b := must(m.Marshal())
	got, err := Parse(b)
	if err != nil {
		t.Fatalf("%v\n%s", err, b)
	}
	if !bytes.Equal(must(got.Marshal()), b) || !bytes.Equal(got.Document().Raw(), m.Document().Raw()) || got.Handsets[0] != m.Handsets[0] {
		t.Error("not the same")
	}
	edited := append([]byte("\ufeff"), bytes.ReplaceAll(b, []byte("\n"), []byte("\r\n"))...)
	if got, err := Parse(edited); err != nil || !bytes.Equal(must(got.Marshal()), b) {
		t.Errorf("after an editor changed the line ends: %v", err)
	}
	kept := m.WithoutRootKey()
	b = must(kept.Marshal())
	if bytes.Contains(b, []byte("PRIVATE KEY")) || kept.HasRootKey() || !m.HasRootKey() {
		t.Error("the root key stayed, or the original lost it")
	}
	if _, err := must(Parse(b)).Authority(); !errors.Is(err, ErrNoRootKey) {
		t.Errorf("%v", err)
	}
	kept.Handsets[0].Name = "changed"
	if m.Handsets[0].Name == "changed" {
		t.Error("accounts are shared")
	}
}

// Errors name the key, and never quote what may be a secret.
func TestParseErrors(t *testing.T) {
	m := must(New("alpha", Options{}))
	must(m.AddHandset("Ann", 100))
	must(m.AddHandset("Bob", 100))
	good := string(must(m.Marshal()))
	other := must(New("alpha", Options{}))
	sub := func(from, to string) string {
		s := strings.Replace(good, from, to, 1)
		if s == good {
			t.Fatalf("%q is not in the file", from)
		}
		return s
	}
	for _, c := range []struct{ file, want string }{
		{"", `key "version"`},
		{"colour = 'red'\n" + good, `unknown key "colour" (line 1)`},
		{sub("[wifi]\n", "[wifi]\nchannel = 6\n"), `unknown key "wifi.channel"`},
		{sub("version = 1", "version = 2"), `key "version": 2`},
		{sub("version = 1", "version = 'one'"), `key "version" (line`},
		{sub("version = 1", "version = "), "line 1"},
		{sub("name = 'alpha'", "name = ''"), `key "name"`},
		{sub("overlay = '", "overlay = 'A"), `key "overlay"`},
		{sub("overlay = '", "overlay = 'a"), `key "configuration"`},
		{sub("ssid = 'alpha'", "ssid = '"+strings.Repeat("a", 33)+"'"), `key "wifi.ssid"`},
		{sub(m.WiFi.Passphrase, "short"), `key "wifi.passphrase"`},
		{sub("<initial-ttl>16", "<initial-ttl>17"), `key "configuration": overlay configuration document: signature`},
		{strings.Replace(good, m.Root.Certificate, other.Root.Certificate, 1), `key "root.certificate"`},
		{strings.Replace(good, m.Root.Key, other.Root.Key, 1), `key "root.key"`},
		{sub("name = 'Bob'", "name = 'ANN'"), `key "handset[1].name": "ANN": twice`},
		{sub("name = 'Bob'", "name = '10001'"), `key "handset[1].name": "10001": the number of another`},
		{sub("name = 'Ann'", "name = '10002'"), `key "handset[0].name": "10002": the number of another`},
		{sub("number = '10002'", "number = '10001'"), `key "handset[1].number"`},
		{sub("number = '10002'", "number = '09902'"), `key "handset[1].number"`},
		{sub("number = '10002'", "number = '90002'"), `key "handset[1].number"`},
		{sub("number = '10002'", "number = '+1002'"), `key "handset[1].number"`},
		{sub(m.Handsets[1].Password, "a"), `key "handset[1].password"`},
		{sub(m.Handsets[1].Password, "pässword"), `key "handset[1].password"`},
		{strings.Repeat("#", maxFile+1), "more than"},
	} {
		_, err := Parse([]byte(c.file))
		if !errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("got %v, want %s", err, c.want)
			continue
		}
		for _, secret := range []string{m.WiFi.Passphrase, m.Handsets[1].Password, "MIGH", "pässword"} {
			if strings.Contains(err.Error(), secret) {
				t.Errorf("error quotes a secret: %v", err)
			}
		}
	}
	for n := 0; n < len(good)-200; n += 97 { // a cut file is never a mission; the last account may end anywhere
		if _, err := Parse([]byte(good[:n])); err == nil {
			t.Errorf("the first %d bytes of %d were taken", n, len(good))
		}
	}
}

func TestAddHandset(t *testing.T) {
	m := must(New("alpha", Options{}))
	seen := map[string]bool{}
	for i := range 100 {
		h, err := m.AddHandset(fmt.Sprintf(" person  %d ", i), 412)
		if err != nil {
			t.Fatal(err)
		}
		if want := fmt.Sprintf("412%02d", (i+1)%100); h.Number != want || h.Name != fmt.Sprintf("person %d", i) {
			t.Fatalf("%+v, want %s", h, want)
		}
		if len(h.Password) != 24 || seen[h.Password] {
			t.Fatalf("password %q", h.Password)
		}
		seen[h.Password] = true
	}
	if _, err := m.AddHandset("one more", 412); !errors.Is(err, ErrFull) {
		t.Errorf("%v", err)
	}
	if h := must(m.AddHandset("another kit's", 899)); h.Number != "89901" || m.AOR(h) != "89901@"+m.Overlay {
		t.Errorf("%+v", h)
	}
	if _, err := m.AddHandset("PERSON 1", 100); !errors.Is(err, ErrNameTaken) {
		t.Errorf("%v", err)
	}
	if _, err := m.AddNumber("new", "41201"); !errors.Is(err, ErrNumberTaken) {
		t.Errorf("%v", err)
	}
	for _, n := range []string{"", "1", "09999", "90000", "412011", "4120a", "-4120", "４１２０１"} {
		if _, err := m.AddNumber("new", n); !errors.Is(err, ErrNumber) {
			t.Errorf("number %q: %v", n, err)
		}
	}
	for _, kit := range []int{1, 99, 900, -1} {
		if _, err := m.AddHandset("new", kit); err == nil {
			t.Errorf("kit %d taken", kit)
		}
	}
	for _, name := range []string{"", "  ", "a\x1bb", strings.Repeat("a", 65)} {
		if _, err := m.AddHandset(name, 100); !errors.Is(err, ErrInvalid) {
			t.Errorf("name %q: %v", name, err)
		}
	}
	if _, err := Parse(must(m.Marshal())); err != nil {
		t.Error(err)
	}
}

// A name is dialled like a number: none may be the number of somebody else, whoever came first.
func TestNamesAreNobodyElsesNumbers(t *testing.T) {
	m := must(New("alpha", Options{}))
	must(m.AddNumber("10001", "10002"))
	if _, err := m.AddNumber("ann", "10001"); !errors.Is(err, ErrNumberTaken) {
		t.Errorf("the number that is a name: %v", err)
	}
	if _, err := m.AddNumber("10002", "10003"); !errors.Is(err, ErrNameTaken) {
		t.Errorf("the name that is a number: %v", err)
	}
	if h := must(m.AddHandset("ann", 100)); h.Number != "10003" {
		t.Errorf("the lowest free number was %s", h.Number)
	}
	must(m.AddNumber("20001", "20001")) // one's own
	if _, err := Parse(must(m.Marshal())); err != nil {
		t.Error(err)
	}
}

func TestKitNumber(t *testing.T) {
	counts := map[int]int{}
	for i := range 4000 {
		n := KitNumber(must(wire.NodeIDFrom([]byte(ident.ResourceID([]byte{byte(i), byte(i >> 8)}, 16)))))
		if n < FirstKit || n > LastKit {
			t.Fatalf("kit number %d", n)
		}
		counts[n]++
	}
	if len(counts) < 700 {
		t.Errorf("only %d numbers for 4000 kits", len(counts))
	}
}

func TestAdopt(t *testing.T) {
	m := must(New("alpha", Options{}))
	newer := must(Parse(must(m.Marshal())))
	must(newer.AddHandset("Ann", 100))
	got := must(m.Adopt(newer))
	if len(got.Handsets) != 1 || got.HasRootKey() {
		t.Errorf("%+v", got)
	}
	// A document with a higher sequence survives an older file.
	d := *m.Document()
	d.Sequence = 5
	m.Config = string(must(d.Sign(must(must(m.Authority()).Signer()))).Raw())
	ahead := must(Parse(must(m.Marshal())))
	if got := must(ahead.Adopt(newer)); got.Document().Sequence != 5 || len(got.Handsets) != 1 {
		t.Errorf("sequence %d", got.Document().Sequence)
	}
	if got := must(newer.Adopt(ahead)); got.Document().Sequence != 5 || len(got.Handsets) != 0 {
		t.Errorf("sequence %d", got.Document().Sequence)
	}
	if _, err := m.Adopt(must(New("alpha", Options{Overlay: m.Overlay}))); !errors.Is(err, ErrInvalid) {
		t.Errorf("another mission: %v", err)
	}
}

func TestFiles(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "a.mission")
	m := must(New("alpha", Options{}))
	if err := m.Create(path); err != nil {
		t.Fatal(err)
	}
	if info := must(os.Stat(path)); info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v", info.Mode())
	}
	if err := must(New("beta", Options{})).Create(path); !errors.Is(err, os.ErrExist) {
		t.Errorf("a mission was overwritten: %v", err)
	}
	got := must(Load(path))
	if !got.Same(m) {
		t.Error("another mission")
	}
	if err := os.Chmod(path, 0o644); err != nil {
		t.Fatal(err)
	}
	must(got.AddHandset("Ann", 100))
	if err := got.Save(path); err != nil {
		t.Fatal(err)
	}
	if info := must(os.Stat(path)); info.Mode().Perm() != 0o600 || len(must(Load(path)).Handsets) != 1 {
		t.Errorf("mode %v", info.Mode())
	}
	if files := must(os.ReadDir(dir)); len(files) != 1 {
		t.Errorf("left behind: %v", files)
	}
	if err := got.Save(filepath.Join(dir, "no", "such", "dir")); err == nil {
		t.Error("saved into a directory that is not there")
	}
	if _, err := Load(filepath.Join(dir, "none")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("%v", err)
	}
}

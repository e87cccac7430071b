package mission

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"strings"
	"testing"
)

func TestCommands(t *testing.T) {
	t.Chdir(t.TempDir())
	var out bytes.Buffer
	if err := (HandsetAddCommand{Name: "Ann"}).Write(&out); err == nil || !strings.Contains(err.Error(), "fieldkit mission new") {
		t.Errorf("without a mission: %v", err)
	}
	if err := (NewCommand{Name: "Alpha / Süd"}).Write(&out); err != nil {
		t.Fatal(err)
	}
	const file = "Alpha - Süd.mission"
	m := must(Load(file))
	for _, want := range []string{file, m.Overlay, m.WiFi.SSID, m.WiFi.Passphrase, "'" + file + "'"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("mission new does not tell %q:\n%s", want, out.String())
		}
	}
	if strings.Contains(out.String(), "PRIVATE") {
		t.Error("mission new shows the root key")
	}
	if err := (NewCommand{Name: "Alpha / Süd"}).Write(&out); !errors.Is(err, os.ErrExist) {
		t.Errorf("the same again: %v", err)
	}

	out.Reset()
	if err := (HandsetAddCommand{Name: "Ann", Kit: 412}).Write(&out); err != nil {
		t.Fatal(err)
	}
	m = must(Load(file))
	if len(m.Handsets) != 1 || m.Handsets[0].Number != "41201" {
		t.Fatalf("%+v", m.Handsets)
	}
	for _, want := range []string{`"Ann"`, "user      41201", "password  " + m.Handsets[0].Password, "domain    " + m.Overlay, "server    10.73.0.1"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("handset add does not tell %q:\n%s", want, out.String())
		}
	}
	out.Reset()
	if err := (HandsetAddCommand{Name: "Bob", Mission: file, Number: "10055", JSON: true}).Write(&out); err != nil {
		t.Fatal(err)
	}
	var a Account
	if err := json.Unmarshal(out.Bytes(), &a); err != nil || a.User != "10055" || a.Password == "" || a.Domain != m.Overlay || a.Server != Server {
		t.Errorf("%s: %v", out.String(), err)
	}
	before := must(os.ReadFile(file))
	if err := (HandsetAddCommand{Name: "bob"}).Write(&out); !errors.Is(err, ErrNameTaken) {
		t.Errorf("%v", err)
	}
	if err := (HandsetAddCommand{Name: "Cy", Number: "10055"}).Write(&out); !errors.Is(err, ErrNumberTaken) {
		t.Errorf("%v", err)
	}
	if !bytes.Equal(before, must(os.ReadFile(file))) {
		t.Error("a refused account changed the file")
	}

	m = must(Load(file))
	for _, secrets := range []bool{false, true} {
		out.Reset()
		if err := (HandsetListCommand{Secrets: secrets}).Write(&out); err != nil {
			t.Fatal(err)
		}
		lines := strings.Split(strings.TrimSpace(out.String()), "\n")
		if len(lines) != 3 || !strings.HasPrefix(lines[1], "10055") || !strings.HasPrefix(lines[2], "41201") {
			t.Errorf("list:\n%s", out.String())
		}
		if got := strings.Contains(out.String(), m.Handsets[0].Password); got != secrets {
			t.Errorf("secrets %v, password shown %v", secrets, got)
		}
		out.Reset()
		if err := (HandsetListCommand{Secrets: secrets, JSON: true}).Write(&out); err != nil || !json.Valid(out.Bytes()) {
			t.Errorf("%v: %s", err, out.String())
		}
		out.Reset()
		if err := (ShowCommand{File: file, Secrets: secrets}).Write(&out); err != nil {
			t.Fatal(err)
		}
		if got := strings.Contains(out.String(), m.WiFi.Passphrase); got != secrets {
			t.Errorf("secrets %v, passphrase shown %v", secrets, got)
		}
		for _, want := range []string{m.Overlay, m.Document().ShortHash(), "sequence 1", "here: this file lets kits in"} {
			if !strings.Contains(out.String(), want) {
				t.Errorf("show does not tell %q:\n%s", want, out.String())
			}
		}
	}
	out.Reset()
	var s struct {
		Overlay    string
		Handsets   int
		Passphrase string
	}
	if err := (ShowCommand{File: file, JSON: true}).Write(&out); err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(out.Bytes(), &s); err != nil || s.Overlay != m.Overlay || s.Handsets != 2 || s.Passphrase != "" {
		t.Errorf("%s: %v", out.String(), err)
	}
	if err := (NewCommand{Name: "beta", SSID: "s", Overlay: "b.example"}).Write(&out); err != nil {
		t.Fatal(err)
	}
	if b := must(Load("beta.mission")); b.WiFi.SSID != "s" || b.Overlay != "b.example" {
		t.Errorf("%+v", b)
	}
	if err := (HandsetListCommand{}).Write(&out); err == nil || !strings.Contains(err.Error(), "--mission") {
		t.Errorf("two missions: %v", err)
	}
}

package label

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

func TestJoinEscapes(t *testing.T) {
	l := Label{SSID: `a;b:c,d\e"f`, Passphrase: "p;;w"}
	if got, want := l.Join(), `WIFI:T:WPA;S:a\;b\:c\,d\\e\"f;P:p\;\;w;;`; got != want {
		t.Errorf("Join() = %s, want %s", got, want)
	}
	if got := (Label{Passphrase: "x"}).Join(); got != "" {
		t.Errorf("Join() without an SSID = %q", got)
	}
}

func TestTitle(t *testing.T) {
	for _, tt := range []struct {
		label Label
		want  string
	}{
		{Label{Name: "MAPLE 412", Number: 412}, "MAPLE 412"},
		{Label{Number: 412}, "Kit 412"},
		{Label{}, "Kit"},
	} {
		if got := tt.label.Title(); got != tt.want {
			t.Errorf("Title of %+v: %q, want %q", tt.label, got, tt.want)
		}
	}
}

// What somebody typed is text, whatever it looks like.
func TestSheetEscapes(t *testing.T) {
	var b bytes.Buffer
	nasty := `<script>alert(1)</script>`
	if err := Sheet(&b, []Label{{Name: nasty, Mission: nasty, SSID: nasty, Passphrase: `"><b>`, Page: "http://10.73.0.1/"}}); err != nil {
		t.Fatal(err)
	}
	if strings.Contains(b.String(), "<script") || strings.Contains(b.String(), "<b>") {
		t.Error("markup of a name is in the sheet as markup")
	}
	if !strings.Contains(b.String(), "&lt;script&gt;") {
		t.Error("the name is not in the sheet")
	}
}

func TestTooLongForACode(t *testing.T) {
	if err := Sheet(&bytes.Buffer{}, []Label{{Page: strings.Repeat("x", 5000)}}); err == nil {
		t.Error("a QR code of 5000 bytes was drawn")
	}
}

// Another program's reader gets out of the picture what was put into it.
func TestCodesAreRead(t *testing.T) {
	for _, program := range []string{"rsvg-convert", "zbarimg"} {
		if _, err := exec.LookPath(program); err != nil {
			if os.Getenv("FIELDKIT_CI") != "" {
				t.Fatal(err)
			}
			t.Skip(err)
		}
	}
	l := Label{Number: 412, Name: "MAPLE 412", SSID: `Relief; "North"`, Passphrase: `river:stone\lamp-oak`, Page: "http://10.73.0.1/"}
	var b bytes.Buffer
	if err := Sheet(&b, []Label{l}); err != nil {
		t.Fatal(err)
	}
	codes := regexp.MustCompile(`(?s)<svg .*?</svg>`).FindAllString(b.String(), -1)
	if len(codes) != 2 {
		t.Fatalf("%d codes on the label, want 2", len(codes))
	}
	for i, want := range []string{l.Join(), l.Page} {
		dir := t.TempDir()
		drawn, picture := filepath.Join(dir, "code.svg"), filepath.Join(dir, "code.png")
		code := strings.Replace(codes[i], "<svg ", `<svg xmlns="http://www.w3.org/2000/svg" `, 1)
		if err := os.WriteFile(drawn, []byte(code), 0o600); err != nil {
			t.Fatal(err)
		}
		if out, err := exec.Command("rsvg-convert", "--width=300", "--output="+picture, drawn).CombinedOutput(); err != nil {
			t.Fatalf("rsvg-convert: %v: %s", err, out)
		}
		out, err := exec.Command("zbarimg", "--quiet", "--raw", "--nodbus", picture).Output()
		if err != nil {
			t.Fatalf("zbarimg: %v: %s", err, out)
		}
		if got := strings.TrimSuffix(string(out), "\n"); got != want {
			t.Errorf("code %d reads %q, want %q", i, got, want)
		}
	}
}

// Package label makes the sheet of labels that is printed and stuck on the boxes: the kit's name and number in large
// type, a QR code that joins the Wi-Fi, one that opens the kit's page, and what the lights and the button mean.
//
// The sheet is one HTML file that loads nothing. Whoever has it can join the Wi-Fi: it carries the passphrase, as a
// label on a box does.
package label

import (
	_ "embed"
	"fmt"
	"html/template"
	"image"
	"io"
	"strings"

	"github.com/boombuler/barcode/qr"
)

// Label is one box.
type Label struct {
	Number  int    // 100 to 899; 0 is left off, as the kit makes one of its key
	Name    string // "" where it has none
	Mission string
	// SSID and Passphrase are the Wi-Fi of the handsets; without an SSID the label has no code to join.
	SSID, Passphrase string
	Page             string // URL of the kit's page in that Wi-Fi
}

//go:embed sheet.html
var sheet string

var page = template.Must(template.New("sheet").Funcs(template.FuncMap{"qr": svg}).Parse(sheet))

// Sheet writes the labels as an HTML file for A4 or Letter paper, two labels beside each other.
func Sheet(w io.Writer, labels []Label) error {
	if err := page.Execute(w, labels); err != nil {
		return fmt.Errorf("label sheet: %w", err)
	}
	return nil
}

// Title is what the box is called first.
func (l Label) Title() string {
	switch {
	case l.Name != "":
		return l.Name
	case l.Number != 0:
		return fmt.Sprintf("Kit %d", l.Number)
	}
	return "Kit"
}

// Join is the content of the code that joins the Wi-Fi, as phones' cameras read it.
func (l Label) Join() string {
	if l.SSID == "" {
		return ""
	}
	return "WIFI:T:WPA;S:" + escape(l.SSID) + ";P:" + escape(l.Passphrase) + ";;"
}

// escape puts a backslash before what ends or divides a field of a WIFI: code.
func escape(s string) string {
	return strings.NewReplacer(`\`, `\\`, `;`, `\;`, `,`, `\,`, `:`, `\:`, `"`, `\"`).Replace(s)
}

// quiet is the light border of a QR code in modules (ISO/IEC 18004 §6.3.8).
const quiet = 4

// svg draws text as a QR code, one path of squares.
func svg(text string) (template.HTML, error) {
	// Level M survives a scratched label; the encoder takes the smallest code that holds the text.
	code, err := qr.Encode(text, qr.M, qr.Unicode)
	if err != nil {
		return "", fmt.Errorf("QR code of %d bytes: %w", len(text), err)
	}
	size := code.Bounds().Dx()
	var path strings.Builder
	for y := range size {
		for x := range size {
			if dark(code, x, y) {
				fmt.Fprintf(&path, "M%d %dh1v1h-1z", x+quiet, y+quiet)
			}
		}
	}
	// Nothing of text is in it but as squares.
	return template.HTML(fmt.Sprintf(`<svg viewBox="0 0 %[1]d %[1]d" shape-rendering="crispEdges" role="img"><path fill="#fff" d="M0 0h%[1]dv%[1]dH0z"/><path d="%[2]s"/></svg>`,
		size+2*quiet, path.String())), nil
}

func dark(code image.Image, x, y int) bool {
	r, _, _, _ := code.At(x, y).RGBA()
	return r < 0x8000
}

package image

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"strings"
	"text/tabwriter"

	"fieldkit/firmware/card"
)

// component is something in an image that somebody else made.
type component struct {
	name, version string
	source        string
	licence       string // file below LICENSES
}

const (
	goLicences = "go.txt"
	sources    = "SOURCES.txt"
)

// papers are the licences and the list of components, which go with every copy of an image.
type papers struct {
	files      tree
	components []component
}

// papers gathers those of all inputs.
func (b *builder) papers(ctx context.Context, in *inputs) (*papers, error) {
	libraries, texts, err := b.goModules(ctx, in.daemon)
	if err != nil {
		return nil, err
	}
	p := &papers{files: tree{}}
	p.files.file(goLicences, texts)
	p.files.file(sources, []byte(offer))
	p.add(libraries...)
	if err := p.addPackages(in.debian, in.packages); err != nil {
		return nil, err
	}
	p.files.file("linux.txt", in.kernel.licence)
	p.add(component{name: "linux", version: in.kernel.version, source: in.kernel.source, licence: "linux.txt"})
	return p, p.addBoot(in.boot)
}

func (p *papers) add(c ...component) { p.components = append(p.components, c...) }

// addPackages adds Debian's packages with their copyright files, and the texts of common licences that these refer to.
func (p *papers) addPackages(debian tree, all []component) error {
	p.add(all...)
	for _, c := range all {
		_, n, err := debian.resolve("/usr/share/doc/" + c.name + "/copyright")
		if err != nil {
			return fmt.Errorf("licence of %s: %w", c.name, err)
		}
		p.files.file(c.licence, n.data)
		for _, m := range common.FindAllSubmatch(n.data, -1) {
			name := strings.TrimRight(string(m[1]), ".") // which may be that of a sentence
			_, text, err := debian.resolve("/usr/share/common-licenses/" + name)
			if err != nil {
				return fmt.Errorf("licence of %s: %w", c.name, err)
			}
			p.files.file(path.Join("common", name+".txt"), text.data)
		}
	}
	return nil
}

// common finds what a copyright file says of a licence that is not repeated in each of them.
var common = regexp.MustCompile(`/usr/share/common-licenses/([A-Za-z0-9.-]+)`)

func (p *papers) addBoot(dir string) error {
	b, err := os.ReadFile(filepath.Join(dir, "LICENSE.broadcom"))
	if err != nil {
		return err
	}
	p.files.file("broadcom.txt", b)
	p.add(component{name: "Raspberry Pi boot files", version: bootVersion, source: bootModule + "; for use on Raspberry Pi boards only", licence: "broadcom.txt"})
	return nil
}

// list is packages.txt.
func (p *papers) list(r card.Release) []string {
	var b bytes.Buffer
	fmt.Fprintf(&b, "fieldkit %s, commit %s, built of:\n\n", r.Version, r.Commit)
	t := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "COMPONENT\tVERSION\tLICENCE\tSOURCE")
	for _, c := range p.components {
		fmt.Fprintf(t, "%s\t%s\t%s/%s\t%s\n", c.name, c.version, card.LicensesDir, c.licence, c.source)
	}
	_ = t.Flush() // into memory
	fmt.Fprintf(&b, "\nHow to get the sources: %s/%s", card.LicensesDir, sources)
	return strings.Split(b.String(), "\n")
}

// offer is the written offer of GPL-2 §3 b, and of the LGPL's, by whoever passes a card on.
const offer = `The sources of what is on this card

The field kit's own program and how all of it is put together are in the project's source tree, at the commit that
packages.txt names: "make image" there makes these same bytes again. packages.txt also names the exact version and the
place of every other component.

Linux, the e2fsprogs, wpa_supplicant's and hostapd's libraries, the GNU C library and others are under the GNU General
Public License or Lesser General Public License (common/). Whoever gives you this card or this image owes you, and
hereby offers, for at least three years and for no more than the cost of doing so, a complete machine-readable copy of
the corresponding source code of these parts on a medium customary for software. They are also here:

  Debian packages   https://snapshot.debian.org, by the name and version of the source package
  Linux             as packages.txt says
  Go modules        https://proxy.golang.org, by path and version

You may replace the libraries under the Lesser General Public License: build the image of other packages, see
firmware/image/debian.lock in the source tree.
`

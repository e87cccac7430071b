// Package fieldkit_test holds the rules that no single package can check: who may import whom,
// and that every package says what it is for (ARCHITECTURE.md).
package fieldkit_test

import (
	"encoding/json"
	"errors"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const module = "fieldkit/"

type listed struct {
	ImportPath string
	Dir        string
	GoFiles    []string
	Imports    []string
}

func packages(t *testing.T) []listed {
	t.Helper()
	out, err := exec.Command("go", "list", "-json=ImportPath,Dir,GoFiles,Imports", "./...").Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	var all []listed
	for d := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p listed
		if err := d.Decode(&p); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		if len(p.GoFiles) > 0 {
			p.ImportPath = strings.TrimPrefix(p.ImportPath, module)
			all = append(all, p)
		}
	}
	if len(all) < 10 {
		t.Fatalf("only %d packages found", len(all))
	}
	return all
}

// ours returns the packages of this module that p imports.
func (p listed) ours() (r []string) {
	for _, i := range p.Imports {
		if s, ok := strings.CutPrefix(i, module); ok {
			r = append(r, s)
		}
	}
	return r
}

// Siblings do not import each other; only firmware sees them all.
func TestSiblingsDoNotImportEachOther(t *testing.T) {
	for _, p := range packages(t) {
		top, _, _ := strings.Cut(p.ImportPath, "/")
		if top == "firmware" || top == "scripts" {
			continue
		}
		for _, i := range p.ours() {
			if other, _, _ := strings.Cut(i, "/"); other != top && (top != "ui" || i != "firmware/health") {
				t.Errorf("%s imports %s: only firmware may join the parts", p.ImportPath, i)
			}
		}
	}
}

// allowed lists, for the packages that have one, the only packages of this module they may import.
var allowed = map[string][]string{
	"overlay/wire":           {},
	"overlay/decode":         {"overlay/wire", "overlay/ident"},
	"overlay/decode/capture": {"overlay/wire", "overlay/stun"},
	"overlay/config":         {"overlay/wire"},
	"overlay/ident":          {"overlay/wire", "overlay/config"},
	"overlay/chord":          {"overlay/wire", "overlay/ident"},
	"overlay/storage":        {"overlay/wire", "overlay/ident"},
	"overlay/link":           {"overlay/wire", "overlay/ident", "overlay/link/sr", "overlay/link/stream", "overlay/link/suite", "overlay/stun"},
	"overlay/link/sr":        {"overlay/wire"},
	"overlay/link/stream":    {"overlay/wire", "overlay/link/sr"},
	"overlay/link/suite":     {},
	"overlay/discovery":      {},
	"overlay/client":         {"overlay/wire", "overlay/ident", "overlay/chord"},
	"overlay/peer":           {"overlay/wire", "overlay/config", "overlay/ident", "overlay/chord", "overlay/client", "overlay/storage"},
	"overlay/sim":            {"overlay/wire", "overlay/config", "overlay/ident", "overlay/link/sr", "overlay/peer"},
	"overlay/node":           {"overlay/wire", "overlay/ident", "overlay/chord", "overlay/storage", "overlay/peer"},
	"overlay/stun":           {},
	"overlay/turn":           {"overlay/wire", "overlay/stun"},
	"overlay/turnusage":      {"overlay/wire", "overlay/ident", "overlay/node", "overlay/link", "overlay/stun"},
	"overlay/sipusage":       {"overlay/wire", "overlay/ident", "overlay/node"},
	"overlay/certusage":      {"overlay/wire", "overlay/ident", "overlay/node"},
	"sip/registrar":          {},
	"sip/proxy":              {},
	"sip/media":              {},
	"sip/sipmsg":             {},
	"sip/agent":              {"sip/sipmsg", "sip/registrar", "sip/proxy", "sip/media"},
	"firmware/card":          {},
	"firmware/boot":          {"board", "board/store", "firmware/boot/initlink", "firmware/card", "firmware/config", "firmware/erase"},
	"firmware/boot/initlink": {},
	"firmware/erase":         {},
	"firmware/emu/guest":     {},
	"firmware/health":        {},
	"firmware/image":         {"firmware/card", "firmware/config", "firmware/mission"},
	"firmware/pair":          {},
	"firmware/task":          {},
	"firmware/label":         {},
	"firmware/update":        {"board/store", "firmware/boot/initlink", "firmware/card", "overlay/ident", "overlay/wire"},
	"board/store":            {},
	"board/firewall":         {},
	"board/station":          {},
	"board/links":            {"board/netif"},
	"board/netif":            {},
	"board/dhcp":             {},
	"board/dns":              {},
	"board/portal":           {},
	"board/clock":            {},
	"board/sntp":             {},
	"board/access":           {},
}

func TestImportsStayInTheirLayer(t *testing.T) {
	seen := 0
	for _, p := range packages(t) {
		rule, ok := allowed[p.ImportPath]
		if !ok {
			continue
		}
		seen++
		for _, i := range p.ours() {
			if !slices.Contains(rule, i) {
				t.Errorf("%s imports %s, allowed are %v", p.ImportPath, i, rule)
			}
		}
	}
	if seen != len(allowed) {
		t.Errorf("%d of %d packages with a rule exist", seen, len(allowed))
	}
}

// Pure cores decide; they have no sockets, files, locks or clock of their own.
func TestCoresArePure(t *testing.T) {
	pure := []string{"overlay/wire", "overlay/config", "overlay/chord", "overlay/storage", "overlay/client", "overlay/peer", "overlay/link/sr", "overlay/stun", "sip/proxy", "sip/registrar"}
	for _, p := range packages(t) {
		if !slices.Contains(pure, p.ImportPath) {
			continue
		}
		for _, bad := range []string{"net", "os", "sync", "net/http", "syscall"} {
			if slices.Contains(p.Imports, bad) {
				t.Errorf("%s imports %s", p.ImportPath, bad)
			}
		}
		for _, f := range p.GoFiles {
			b, err := os.ReadFile(filepath.Join(p.Dir, f))
			if err != nil {
				t.Fatal(err)
			}
			for _, bad := range []string{"time.Now()", "time.After", "time.NewTimer", "go func("} {
				if strings.Contains(string(b), bad) {
					t.Errorf("%s/%s uses %s", p.ImportPath, f, bad)
				}
			}
		}
	}
}

// One package owns pion's connections, so that its guards stand in one place.
func TestOnlyLinkImportsICEAndDTLS(t *testing.T) {
	for _, p := range packages(t) {
		if p.ImportPath == "overlay/link" || p.ImportPath == "overlay/link/suite" || p.ImportPath == "overlay/turn" || p.ImportPath == "board/simnet" {
			continue
		}
		for _, i := range p.Imports {
			for _, bad := range []string{"github.com/pion/ice", "github.com/pion/dtls", "github.com/pion/turn", "github.com/pion/stun", "github.com/pion/transport/v2"} {
				if strings.HasPrefix(i, bad) {
					t.Errorf("%s imports %s", p.ImportPath, i)
				}
			}
		}
	}
}

func TestEveryPackageSaysWhatItIsFor(t *testing.T) {
	for _, p := range packages(t) {
		longest := 0
		for _, f := range p.GoFiles {
			parsed, err := parser.ParseFile(token.NewFileSet(), filepath.Join(p.Dir, f), nil, parser.ParseComments|parser.PackageClauseOnly)
			if err != nil {
				t.Fatal(err)
			}
			longest = max(longest, len(parsed.Doc.Text()))
		}
		if longest < 80 {
			t.Errorf("%s has no package comment that says what it is for", p.ImportPath)
		}
	}
}

func TestExportedIdentifiersAreDocumented(t *testing.T) {
	for _, p := range packages(t) {
		for _, f := range p.GoFiles {
			name := filepath.Join(p.Dir, f)
			parsed, err := parser.ParseFile(token.NewFileSet(), name, nil, parser.ParseComments)
			if err != nil {
				t.Fatal(err)
			}
			for _, d := range parsed.Decls {
				if fn, ok := d.(*ast.FuncDecl); ok && fn.Name.IsExported() && fn.Doc == nil && fn.Recv == nil {
					t.Errorf("%s/%s: func %s has no comment", p.ImportPath, f, fn.Name)
				}
				if g, ok := d.(*ast.GenDecl); ok && g.Tok == token.TYPE {
					for _, s := range g.Specs {
						if ts := s.(*ast.TypeSpec); ts.Name.IsExported() && g.Doc == nil && ts.Doc == nil && ts.Comment == nil {
							t.Errorf("%s/%s: type %s has no comment", p.ImportPath, f, ts.Name)
						}
					}
				}
			}
		}
	}
}

// Nothing promised in a comment may stay a promise.
func TestNoPromisesInTheTree(t *testing.T) {
	words := []string{"TO" + "DO", "FIX" + "ME", "XX" + "X:", "not yet " + "implemented"}
	for _, p := range packages(t) {
		for _, f := range p.GoFiles {
			b, err := os.ReadFile(filepath.Join(p.Dir, f))
			if err != nil {
				t.Fatal(err)
			}
			for _, w := range words {
				if strings.Contains(string(b), w) {
					t.Errorf("%s/%s says %s", p.ImportPath, f, w)
				}
			}
		}
	}
}

package fieldkit_test

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const (
	indexFile   = "docs/rfc/index.tsv"
	interopFile = "docs/interop.md"
)

// indexColumns heads the index. The statuses are done, part (the note says what is missing), not done (the note
// says why, or what it would take) and n/a (nothing in the section is there to be built).
var indexColumns = []string{"rfc", "section", "title", "status", "shown by", "note"}

// indexSections is how many sections the table of contents of each RFC has. With the order of the rows, which allows
// no gap before another section, it makes sure that none is missing.
var indexSections = map[string]int{"6940": 203, "7904": 29}

// indexRow is one section.
type indexRow struct {
	line                              int
	rfc, section, title, status, note string
	tests                             []string
}

func (r indexRow) String() string {
	return fmt.Sprintf("line %d, RFC %s §%s", r.line, r.rfc, r.section)
}

// parseIndex reads the index; what is not well formed is complained about.
func parseIndex(text string) (rows []indexRow, complaints []string) {
	lines := strings.Split(strings.TrimSuffix(text, "\n"), "\n")
	if got := strings.Split(lines[0], "\t"); !slices.Equal(got, indexColumns) {
		complaints = append(complaints, fmt.Sprintf("line 1: columns %q, want %q", got, indexColumns))
	}
	for i, line := range lines[1:] {
		f := strings.Split(line, "\t")
		if len(f) != len(indexColumns) {
			complaints = append(complaints, fmt.Sprintf("line %d: %d columns, want %d", i+2, len(f), len(indexColumns)))
			continue
		}
		for j := range f {
			if strings.TrimSpace(f[j]) != f[j] {
				complaints = append(complaints, fmt.Sprintf("line %d: space around %q", i+2, f[j]))
			}
		}
		r := indexRow{line: i + 2, rfc: f[0], section: f[1], title: f[2], status: f[3], note: f[5]}
		if f[4] != "" {
			r.tests = strings.Split(f[4], ", ")
		}
		rows = append(rows, r)
	}
	return rows, complaints
}

// follows reports whether section b may come right after section a: its first part, or the next one of the same
// depth or of a lesser one. Appendices come after the numbers.
func follows(a, b string) bool {
	p, n := strings.Split(a, "."), strings.Split(b, ".")
	if len(n) > len(p) {
		return slices.Equal(n, append(slices.Clone(p), "1"))
	}
	k := len(n) - 1
	return slices.Equal(p[:k], n[:k]) && slices.Contains(nextNumbers(p[k], k == 0), n[k])
}

func nextNumbers(s string, top bool) []string {
	v, err := strconv.Atoi(s)
	switch {
	case err != nil && len(s) == 1:
		return []string{string(s[0] + 1)}
	case err != nil:
		return nil
	case top:
		return []string{strconv.Itoa(v + 1), "A"}
	}
	return []string{strconv.Itoa(v + 1)}
}

// checkIndex holds an index against its rules. exists tells whether a package has a test of that name.
func checkIndex(text string, exists func(dir, name string) bool) []string {
	rows, complaints := parseIndex(text)
	complain := func(r indexRow, format string, a ...any) {
		complaints = append(complaints, r.String()+": "+fmt.Sprintf(format, a...))
	}
	count := map[string]int{}
	for i, r := range rows {
		count[r.rfc]++
		switch {
		case r.title == "":
			complain(r, "no title")
		case i == 0 || rows[i-1].rfc != r.rfc:
			if r.section != "1" || i > 0 && rows[i-1].rfc > r.rfc {
				complain(r, "begins the sections of another RFC")
			}
		case !follows(rows[i-1].section, r.section):
			complain(r, "does not follow on §%s", rows[i-1].section)
		}
		switch r.status {
		case "done", "part":
			if len(r.tests) == 0 {
				complain(r, "%s, and no test shows it", r.status)
			}
		case "not done", "n/a":
			if len(r.tests) != 0 {
				complain(r, "%s, and tests show it", r.status)
			}
		default:
			complain(r, "status %q", r.status)
		}
		if r.note == "" && (r.status == "part" || r.status == "not done") {
			complain(r, "%s, and no note says what is missing", r.status)
		}
		for j, name := range r.tests {
			dir, test, ok := strings.Cut(name, ":")
			switch {
			case slices.Contains(r.tests[:j], name):
				complain(r, "%s twice", name)
			case !ok || !exists(dir, test):
				complain(r, "there is no test %s", name)
			}
		}
	}
	for rfc, want := range indexSections {
		if count[rfc] != want {
			complaints = append(complaints, fmt.Sprintf("RFC %s: %d sections, want %d", rfc, count[rfc], want))
		}
		delete(count, rfc)
	}
	for rfc := range count {
		complaints = append(complaints, fmt.Sprintf("RFC %s: no RFC of this index", rfc))
	}
	return complaints
}

// testsOf returns a function that tells whether a package, named by its directory, has a test function. Fuzz targets
// count, since go test runs their seeds; TestMain is none. Files are read whatever system they are for.
func testsOf(t *testing.T) func(dir, name string) bool {
	t.Helper()
	known := map[string]map[string]bool{}
	return func(dir, name string) bool {
		if known[dir] == nil {
			known[dir] = map[string]bool{}
			files, err := filepath.Glob(filepath.Join(filepath.FromSlash(dir), "*_test.go"))
			if err != nil || !filepath.IsLocal(filepath.FromSlash(dir)) {
				t.Errorf("package %q: %v", dir, err)
			}
			for _, f := range files {
				parsed, err := parser.ParseFile(token.NewFileSet(), f, nil, parser.SkipObjectResolution)
				if err != nil {
					t.Fatal(err)
				}
				for _, d := range parsed.Decls {
					if fn, ok := d.(*ast.FuncDecl); ok && fn.Recv == nil && isTest(fn) {
						known[dir][fn.Name.Name] = true
					}
				}
			}
		}
		return known[dir][name]
	}
}

// isTest reports whether go test would run fn: by its name, and by having one parameter, *testing.T or *testing.F.
func isTest(fn *ast.FuncDecl) bool {
	name := fn.Name.Name
	if name == "TestMain" || fn.Type.Params.NumFields() != 1 {
		return false
	}
	star, ok := fn.Type.Params.List[0].Type.(*ast.StarExpr)
	if !ok {
		return false
	}
	sel, ok := star.X.(*ast.SelectorExpr)
	return ok && (strings.HasPrefix(name, "Test") && sel.Sel.Name == "T" || strings.HasPrefix(name, "Fuzz") && sel.Sel.Name == "F")
}

// "Every MUST claimed has a test that quotes it": the index of sections says what is there, and only what tests show.
func TestRFCIndex(t *testing.T) {
	text, err := os.ReadFile(indexFile)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range checkIndex(string(text), testsOf(t)) {
		t.Errorf("%s: %s", indexFile, c)
	}
	rows, _ := parseIndex(string(text))
	statuses := map[string]int{}
	for _, r := range rows {
		statuses[r.rfc+" "+r.status]++
	}
	t.Log(statuses)
}

// Whatever claims to be shown by a test, and is not, is found: each mistake is made in a copy of the index.
func TestRFCIndexFindsMistakes(t *testing.T) {
	b, err := os.ReadFile(indexFile)
	if err != nil {
		t.Fatal(err)
	}
	good, exists := string(b), testsOf(t)
	lines := strings.SplitAfter(good, "\n")
	first := func(status string) int {
		t.Helper()
		i := slices.IndexFunc(lines, func(l string) bool { f := strings.Split(l, "\t"); return len(f) > 3 && f[3] == status })
		if i < 0 {
			t.Fatalf("no row is %q", status)
		}
		return i
	}
	row := func(i, column int, to string) string {
		f := strings.Split(strings.TrimSuffix(lines[i], "\n"), "\t")
		f[column] = to
		return strings.Join(slices.Replace(slices.Clone(lines), i, i+1, strings.Join(f, "\t")+"\n"), "")
	}
	// as is row with another status, shown by and note: rows that are not done go, one after the other.
	as := func(i int, status, shown, note string) string {
		f := strings.Split(strings.TrimSuffix(lines[i], "\n"), "\t")
		f[3], f[4], f[5] = status, shown, note
		return strings.Join(slices.Replace(slices.Clone(lines), i, i+1, strings.Join(f, "\t")+"\n"), "")
	}
	without := func(i int) string { return strings.Join(slices.Delete(slices.Clone(lines), i, i+1), "") }
	twice := func(i int) string { return strings.Join(slices.Insert(slices.Clone(lines), i, lines[i]), "") }
	last := len(lines) - 1
	if lines[last] == "" {
		last--
	}
	done, na := first("done"), first("n/a")
	shown := strings.Split(lines[done], "\t")[4]
	for name, text := range map[string]string{
		"status unknown":            row(done, 3, "mostly"),
		"status missing":            row(done, 3, ""),
		"done without a test":       row(done, 4, ""),
		"part without a test":       as(done, "part", "", "why"),
		"part without a note":       as(done, "part", shown, ""),
		"not done without a note":   as(done, "not done", "", ""),
		"not done, shown by a test": as(done, "not done", shown, "why"),
		"n/a, shown by a test":      row(na, 4, shown),
		"test that does not exist":  row(done, 4, shown+"X"),
		"package that is not there": row(done, 4, "overlay/nothing:TestGolden"),
		"test without a package":    row(done, 4, "TestGolden"),
		"TestMain":                  row(done, 4, "overlay/link:TestMain"),
		"a helper":                  row(done, 4, "overlay/wire:unhex"),
		"a test twice":              row(done, 4, shown+", "+shown),
		"section left out":          without(done),
		"last section left out":     without(last),
		"section twice":             twice(done),
		"two sections exchanged":    strings.Join(slices.Concat(lines[:done], lines[done+1:done+2], lines[done:done+1], lines[done+2:]), ""),
		"title missing":             row(na, 2, ""),
		"unknown RFC":               row(last, 0, "3261"),
		"a column too many":         row(na, 5, "x\ty"),
		"columns exchanged":         strings.Replace(good, "status\tshown by", "shown by\tstatus", 1),
	} {
		if len(checkIndex(text, exists)) == 0 {
			t.Errorf("%s: not found", name)
		}
	}
}

// What docs/interop.md says was tried is named by the test that tries it.
func TestInteropNamesTestsThatExist(t *testing.T) {
	text, err := os.ReadFile(interopFile)
	if err != nil {
		t.Fatal(err)
	}
	exists := testsOf(t)
	named := regexp.MustCompile("`([a-z0-9_/]+):((?:Test|Fuzz)\\w*)`").FindAllStringSubmatch(string(text), -1)
	if len(named) == 0 {
		t.Fatal("no test is named")
	}
	for _, m := range named {
		if !exists(m[1], m[2]) {
			t.Errorf("%s: there is no test %s:%s", interopFile, m[1], m[2])
		}
	}
	for i, line := range strings.Split(string(text), "\n") {
		if strings.HasPrefix(line, "## ") {
			rest := strings.Join(strings.Split(string(text), "\n")[i+1:], "\n")
			body, _, _ := strings.Cut(rest, "\n## ")
			if !strings.Contains(body, ":Test") {
				t.Errorf("%s: %q names no test", interopFile, line)
			}
		}
	}
}

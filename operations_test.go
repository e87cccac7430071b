package fieldkit_test

import (
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"fieldkit/board"
	"fieldkit/firmware/config"
	"fieldkit/ui"
)

// docs/operations.md is what a technician has in the field: it must say what the programs do, so the tables in it
// are read back and held against them.

func operations(t *testing.T) string {
	t.Helper()
	b, err := os.ReadFile("docs/operations.md")
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// table returns the rows of the table that has the header, without the header and the rule below it.
func table(t *testing.T, text string, header ...string) (rows [][]string) {
	t.Helper()
	_, rest, ok := strings.Cut(text, "\n| "+strings.Join(header, " | ")+" |\n")
	if !ok {
		t.Fatalf("no table with the columns %v", header)
	}
	for line := range strings.Lines(rest) {
		line = strings.TrimSpace(line)
		if !strings.HasPrefix(line, "|") {
			break
		}
		cells := strings.Split(strings.Trim(line, "|"), "|")
		for i := range cells {
			cells[i] = strings.TrimSpace(cells[i])
		}
		if len(cells) != len(header) {
			t.Fatalf("row %q has %d cells", line, len(cells))
		}
		if !strings.HasPrefix(cells[0], "---") {
			rows = append(rows, cells)
		}
	}
	return rows
}

// The documented keys are all the keys there are, in their order, and the documented defaults are the defaults.
func TestOperationsNameEverySetting(t *testing.T) {
	var file strings.Builder
	var keys []string
	for _, row := range table(t, operations(t), "key", "default", "what") {
		key, value := strings.Trim(row[0], "`"), strings.Trim(row[1], "`")
		keys = append(keys, key)
		file.WriteString(key + " = " + value + "\n")
	}
	documented, err := config.Parse([]byte(file.String()))
	if err != nil {
		t.Fatalf("what is documented is no configuration: %v\n%s", err, file.String())
	}
	defaults := config.Default().Values()
	for i, v := range documented.Values() {
		if v.Source != config.FromFile {
			t.Errorf("key %s is not documented", v.Key)
		}
		if v.Value != defaults[i].Value {
			t.Errorf("key %s: documented default %s, it is %s", v.Key, v.Value, defaults[i].Value)
		}
		if i < len(keys) && keys[i] != v.Key {
			t.Errorf("key %s documented in the place of %s", keys[i], v.Key)
		}
	}
}

// The documented lights are what the board shows.
func TestOperationsShowTheLights(t *testing.T) {
	inputs := []board.Inputs{
		{},
		{Ready: true},
		{Ready: true, Handsets: 2},
		{Ready: true, Kits: 1},
		{Ready: true, Kits: 3, Handsets: 1},
		{Ready: true, Kits: 7, Handsets: 1},
		{Ready: true, LastLost: true, Kits: 1, Handsets: 1},
		{Ready: true, Handsets: 1, Fault: true, Cause: "bindings: not saved"},
		{Ready: true, Handsets: 1, StatusStale: true},
	}
	rows := table(t, operations(t), "text", "power", "phones", "link blue", "link yellow", "red", "single LED")
	if len(rows) != len(inputs) {
		t.Fatalf("%d rows, want %d", len(rows), len(inputs))
	}
	for i, in := range inputs {
		l := in.Lights()
		want := []string{
			in.String(), l[board.Power].String(), l[board.Phones].String(), l[board.LinkBlue].String(), l[board.LinkYellow].String(),
			l[board.Red].String(), l[board.Single].String(),
		}
		if !slices.Equal(rows[i], want) {
			t.Errorf("documented %q, it is %q", rows[i], want)
		}
	}
}

// fields lists the JSON paths of a struct: "kits[].state".
func fields(prefix string, t reflect.Type) (paths []string) {
	for i := range t.NumField() {
		name, _, _ := strings.Cut(t.Field(i).Tag.Get("json"), ",")
		path, kind := prefix+name, t.Field(i).Type
		if kind.Kind() == reflect.Slice {
			kind = kind.Elem()
			if kind.Kind() == reflect.Struct {
				path += "[]"
			}
		}
		if kind.Kind() == reflect.Struct {
			paths = append(paths, fields(path+".", kind)...)
			continue
		}
		paths = append(paths, path)
	}
	return paths
}

var quoted = regexp.MustCompile("`([^`]+)`")

// names are what a row's cell has in backquotes.
func names(cell string) (r []string) {
	for _, m := range quoted.FindAllStringSubmatch(cell, -1) {
		r = append(r, m[1])
	}
	return r
}

func TestOperationsNameEveryJSONField(t *testing.T) {
	var documented []string
	for _, row := range table(t, operations(t), "JSON", "what") {
		documented = append(documented, names(row[0])...)
	}
	there := fields("", reflect.TypeFor[ui.Status]())
	for _, f := range there {
		if !slices.Contains(documented, f) {
			t.Errorf("%s is not documented", f)
		}
	}
	for _, f := range documented {
		if !slices.Contains(there, f) {
			t.Errorf("%s is documented and does not exist", f)
		}
	}
}

// Every check that a kit can report, and every part that it runs, has a line that says what to do; and there is no
// line for what no kit reports.
func TestOperationsNameEveryCheck(t *testing.T) {
	sources, err := filepath.Glob("firmware/kit/*.go")
	if err != nil || len(sources) == 0 {
		t.Fatal(errors.Join(err, errors.New("no sources")))
	}
	check := regexp.MustCompile(`health\.(?:Warn|Fault)\("([^"]+)"`)
	part := regexp.MustCompile(`task\.New\("([^"]+)"`)
	reported := map[string]bool{"parts/…": true}
	for _, name := range sources {
		b, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range check.FindAllStringSubmatch(string(b), -1) {
			reported[m[1]] = true
		}
		for _, m := range part.FindAllStringSubmatch(string(b), -1) {
			reported["parts/"+m[1]] = true
		}
	}
	if len(reported) < 12 {
		t.Fatalf("only %d checks found in the sources: %v", len(reported), reported)
	}
	text := operations(t)
	documented := map[string]bool{}
	for _, row := range table(t, text, "name", "says", "do") {
		for _, n := range names(row[0]) {
			documented[n] = true
		}
	}
	for _, row := range table(t, text, "part", "usual cause") {
		for _, n := range names(row[0]) {
			documented[n] = true
		}
	}
	for n := range reported {
		if !documented[n] {
			t.Errorf("%s is not documented", n)
		}
	}
	for n := range documented {
		if !reported[n] {
			t.Errorf("%s is documented and never reported", n)
		}
	}
}

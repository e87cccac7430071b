package image

import (
	"bytes"
	"context"
	"debug/buildinfo"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"fieldkit/firmware/card"
)

// The kernel of the boards, with its device trees, and the files that the boards' firmware loads, as Go modules at
// fixed versions: the sums are those of go.sum files.
const (
	kernelModule  = "github.com/gokrazy/kernel.rpi"
	kernelVersion = "v0.0.0-20251127164438-9778ec0261de"
	kernelSum     = "h1:RSLWj1Ska9s4cl+n/bC5LY4s8vLr+tZoO2vMm/wGP64="
	bootModule    = "github.com/gokrazy/firmware"
	bootVersion   = "v0.0.0-20260522070551-527ce0ed43cf"
	bootSum       = "h1:WRmvIwhtcWJfHnrfpfXWPh3Xq6Lztn0y5l3li+NjaYw="
)

// downloadModule has the go command fetch a module, unless it has it, and returns its directory.
func downloadModule(ctx context.Context, module, version, sum string) (string, error) {
	out, err := run(ctx, []string{"GOFLAGS=", "GO111MODULE=on", "GOWORK=off"}, "go", "mod", "download", "-json", module+"@"+version)
	var m struct{ Dir, Sum, Error string }
	if e := json.Unmarshal(out, &m); e != nil || err != nil {
		return "", fmt.Errorf("module %s@%s: %w", module, version, errors.Join(err, e))
	}
	if m.Error != "" {
		return "", fmt.Errorf("module %s@%s: %s", module, version, m.Error)
	}
	if m.Sum != sum {
		return "", fmt.Errorf("module %s@%s: sum %s: want %s", module, version, m.Sum, sum)
	}
	return m.Dir, nil
}

// Root finds the project's tree from a directory in it.
func Root(dir string) (string, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return "", err
	}
	for d := dir; ; d = filepath.Dir(d) {
		b, err := os.ReadFile(filepath.Join(d, "go.mod"))
		if err == nil && bytes.HasPrefix(b, []byte("module fieldkit\n")) {
			return d, nil
		}
		if d == filepath.Dir(d) {
			return "", fmt.Errorf("%s is not in the project's source tree, from which images are built: %w", dir, fs.ErrNotExist)
		}
	}
}

// release says what is built: version and time are those of the commit, so that everybody builds the same of it.
func (b *builder) release(ctx context.Context, k *kernel) (card.Release, error) {
	git := func(args ...string) (string, error) {
		out, err := run(ctx, nil, "git", append([]string{"-C", b.o.Source}, args...)...)
		return strings.TrimSpace(string(out)), err
	}
	commit, err1 := git("rev-parse", "HEAD")
	version, err2 := git("describe", "--tags", "--always", "--dirty")
	seconds, err3 := git("log", "-1", "--format=%ct")
	if err := errors.Join(err1, err2, err3); err != nil {
		return card.Release{}, fmt.Errorf("version of the source: %w", err)
	}
	if s, ok := os.LookupEnv("SOURCE_DATE_EPOCH"); ok { // https://reproducible-builds.org/specs/source-date-epoch/
		seconds = s
	}
	n, err := strconv.ParseInt(seconds, 10, 64)
	if err != nil {
		return card.Release{}, fmt.Errorf("time of the source: %w", err)
	}
	if strings.HasSuffix(version, "-dirty") {
		commit += "-dirty"
	}
	r := card.Release{
		Product: card.Product, Layout: card.LayoutVersion, Version: version, Sequence: uint64(n), Time: time.Unix(n, 0).UTC(),
		Commit: commit, Kernel: k.version, Flavour: k.flavour, Boards: k.boards,
	}
	return r, r.Validate()
}

// daemon builds fieldkitd for the boards and returns it.
func (b *builder) daemon(ctx context.Context, version string) ([]byte, error) {
	out := filepath.Join(b.work, "fieldkitd")
	env := []string{"CGO_ENABLED=0", "GOOS=linux", "GOARCH=arm64", "GOARM64=v8.0", "GOFLAGS=", "GOEXPERIMENT=", "GOFIPS140=off", "GOWORK=off"}
	if _, err := run(ctx, env, "go", "build", "-C", b.o.Source, "-trimpath", "-buildvcs=false",
		"-ldflags", "-s -w -buildid= -X fieldkit/firmware/kit.Version="+version, "-o", out, "./firmware/cmd/fieldkitd"); err != nil {
		return nil, fmt.Errorf("fieldkitd: %w", err)
	}
	return os.ReadFile(out)
}

// goModules are the libraries that are in the daemon, with the texts of their licences.
func (b *builder) goModules(ctx context.Context, daemon []byte) (all []component, texts []byte, err error) {
	info, err := buildinfo.Read(bytes.NewReader(daemon))
	if err != nil {
		return nil, nil, fmt.Errorf("fieldkitd: what is in it: %w", err)
	}
	out, err := run(ctx, []string{"GOFLAGS=", "GOWORK=off"}, "go", "list", "-C", b.o.Source, "-m", "-f", "{{.Path}} {{.Version}} {{.Dir}}", "all")
	if err != nil {
		return nil, nil, fmt.Errorf("libraries: %w", err)
	}
	dirs := map[string]string{}
	for line := range strings.Lines(string(out)) {
		if f := strings.SplitN(strings.TrimSpace(line), " ", 3); len(f) == 3 {
			dirs[f[0]+" "+f[1]] = f[2]
		}
	}
	root, err := run(ctx, nil, "go", "env", "GOROOT")
	if err != nil {
		return nil, nil, err
	}
	var text bytes.Buffer
	add := func(name, version, dir, source string) error {
		licences, err := licenceFiles(dir)
		if err != nil {
			return fmt.Errorf("licence of %s: %w", name, err)
		}
		for _, l := range licences {
			fmt.Fprintf(&text, "==== %s %s: %s\n\n%s\n\n", name, version, l.name, bytes.TrimSpace(l.text))
		}
		all = append(all, component{name: name, version: version, source: source, licence: goLicences})
		return nil
	}
	if err := add("Go's runtime and standard library", info.GoVersion, strings.TrimSpace(string(root)), "https://go.dev/dl"); err != nil {
		return nil, nil, err
	}
	for _, d := range info.Deps {
		if err := add(d.Path, d.Version, dirs[d.Path+" "+d.Version], "Go module"); err != nil {
			return nil, nil, err
		}
	}
	return all, text.Bytes(), nil
}

type licence struct {
	name string
	text []byte
}

// licenceFiles are the files of a module's root that say under which terms it is; without any it may not be shipped.
func licenceFiles(dir string) ([]licence, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	var all []licence
	for _, e := range entries {
		base := strings.ToUpper(strings.TrimSuffix(e.Name(), filepath.Ext(e.Name())))
		if e.IsDir() || !slices.ContainsFunc([]string{"LICENSE", "LICENCE", "COPYING", "NOTICE", "PATENTS", "UNLICENSE"}, func(p string) bool { return strings.HasPrefix(base, p) }) {
			continue
		}
		f, err := os.Open(filepath.Join(dir, e.Name()))
		if err != nil {
			return nil, err
		}
		b, err := io.ReadAll(io.LimitReader(f, 1<<20))
		if err := errors.Join(err, f.Close()); err != nil {
			return nil, err
		}
		all = append(all, licence{e.Name(), b})
	}
	if len(all) == 0 {
		return nil, fmt.Errorf("no file with it in %s", dir)
	}
	return all, nil
}

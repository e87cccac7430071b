package image

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	_ "embed"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
)

const lockName = "firmware/image/debian.lock"

//go:embed debian.lock
var lockFile string

// debPackage is one line of the lock file.
type debPackage struct {
	set     string // systemSet or kernelSet
	name    string
	version string
	size    int64
	sum     string // SHA-256, hexadecimal
	path    string // below the mirror
}

const (
	systemSet = "system"
	kernelSet = "kernel"
)

func parseLock(s string) ([]debPackage, error) {
	var all []debPackage
	for line := range strings.Lines(s) {
		f := strings.Fields(line)
		if len(f) == 0 || strings.HasPrefix(f[0], "#") {
			continue
		}
		bad := func(what string) error { return fmt.Errorf("%s: %q: %s", lockName, strings.TrimSpace(line), what) }
		if len(f) != 6 || f[0] != systemSet && f[0] != kernelSet {
			return nil, bad("want: set package version bytes sha256 path")
		}
		size, err := strconv.ParseInt(f[3], 10, 64)
		if err != nil || size <= 0 || size > 256<<20 {
			return nil, bad("size")
		}
		if b, err := hex.DecodeString(f[4]); err != nil || len(b) != sha256.Size {
			return nil, bad("SHA-256")
		}
		if !filepath.IsLocal(f[5]) || path.Ext(f[5]) != ".deb" {
			return nil, bad("path")
		}
		all = append(all, debPackage{set: f[0], name: f[1], version: f[2], size: size, sum: f[4], path: f[5]})
	}
	return all, nil
}

// debs is the packages of the lock file on this machine.
type debs struct {
	dir     string // cache
	list    []debPackage
	mirrors []string // roots of archives; nil is those of this machine's apt
}

func (d debs) file(p debPackage) string { return filepath.Join(d.dir, path.Base(p.path)) }

// fetch makes all packages be in the cache, whole and unaltered: what is missing comes from the mirrors that this
// machine's own apt uses, by apt's own downloader, which knows of proxies and the like, and needs no root.
func (d debs) fetch(ctx context.Context, say func(string, ...any)) error {
	if err := os.MkdirAll(d.dir, 0o755); err != nil {
		return err
	}
	var missing []debPackage
	for _, p := range d.list {
		if err := d.check(p, d.file(p)); errors.Is(err, fs.ErrNotExist) {
			missing = append(missing, p)
		} else if err != nil {
			return err
		}
	}
	if len(missing) == 0 {
		return nil
	}
	if d.mirrors == nil {
		var err error
		if d.mirrors, err = mirrors(ctx); err != nil {
			return err
		}
	}
	say("fetching %d Debian packages\n", len(missing))
	errs := make([]error, len(missing))
	var wg sync.WaitGroup
	slots := make(chan struct{}, 4)
	for i, p := range missing {
		wg.Go(func() {
			slots <- struct{}{}
			defer func() { <-slots }()
			errs[i] = d.get(ctx, p)
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

func (d debs) check(p debPackage, file string) (err error) {
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	h := sha256.New()
	n, err := io.Copy(h, f)
	if err != nil {
		return err
	}
	if n != p.size || hex.EncodeToString(h.Sum(nil)) != p.sum {
		return fmt.Errorf("package %s: %s is not what %s pins: remove it", p.name, file, lockName)
	}
	return nil
}

// mirrors are the roots of the archives that apt uses here, and after them, for machines with another distribution,
// Debian's own.
func mirrors(ctx context.Context) ([]string, error) {
	out, err := run(ctx, nil, "apt-get", "indextargets", "--no-release-info", "--format", "$(REPO_URI)", "Created-By: Packages")
	if err != nil {
		return nil, fmt.Errorf("package sources of this machine: %w", err)
	}
	var all []string
	for _, m := range append(strings.Fields(string(out)), "https://deb.debian.org/debian/", "https://deb.debian.org/debian-security/") {
		if !slices.Contains(all, m) {
			all = append(all, m)
		}
	}
	return all, nil
}

func (d debs) get(ctx context.Context, p debPackage) (err error) {
	dir, err := os.MkdirTemp(d.dir, "part-") // what fails leaves more than one file behind
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	part := filepath.Join(dir, "deb")
	var last error
	for _, m := range d.mirrors {
		uri := strings.TrimSuffix(m, "/") + "/" + strings.ReplaceAll(p.path, "+", "%2b")
		if _, last = run(ctx, nil, aptHelper, "-o", "APT::Sandbox::User=", "download-file", uri, part, "SHA256:"+p.sum); last == nil {
			if last = d.check(p, part); last == nil {
				return os.Rename(part, d.file(p))
			}
		}
	}
	return fmt.Errorf("package %s %s: no mirror of this machine's apt has %s any more, or none answered: if Debian has a newer version, run scripts/image-lock and look at what it changed; else put the file into %s (snapshot.debian.org keeps every version): %w",
		p.name, p.version, path.Base(p.path), d.dir, last)
}

const aptHelper = "/usr/lib/apt/apt-helper"

// unpack reads the packages of a set into one tree, and about each what its control file says.
func (d debs) unpack(ctx context.Context, set string, want func(name string) bool) (tree, []component, error) {
	t := tree{}
	var all []component
	for _, p := range d.list {
		if p.set != set {
			continue
		}
		if err := t.unpack(ctx, d.file(p), want); err != nil {
			return nil, nil, fmt.Errorf("package %s: %w", p.name, err)
		}
		out, err := run(ctx, nil, "dpkg-deb", "--show", "--showformat", "${source:Package} ${source:Version}", d.file(p))
		if err != nil {
			return nil, nil, fmt.Errorf("package %s: %w", p.name, err)
		}
		all = append(all, component{name: p.name, version: p.version, source: "Debian source package " + strings.TrimSpace(string(out)), licence: p.name + ".txt"})
	}
	return t, all, nil
}

// unpack adds the files of a package; nothing is written to this machine.
func (t tree) unpack(ctx context.Context, deb string, want func(name string) bool) error {
	cmd := exec.CommandContext(ctx, "dpkg-deb", "--fsys-tarfile", deb)
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	err = t.untar(out, want)
	_, drained := io.Copy(io.Discard, out) // what tar pads with, without which dpkg-deb would fail
	return errors.Join(err, drained, cmd.Wait())
}

func (t tree) untar(from io.Reader, want func(name string) bool) error {
	r := tar.NewReader(from)
	for {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		name := clean(h.Name)
		if !want(name) {
			continue
		}
		switch h.Typeflag {
		case tar.TypeReg:
			b, err := io.ReadAll(r)
			if err != nil {
				return err
			}
			t[name] = node{data: b, exec: h.Mode&0o111 != 0}
		case tar.TypeSymlink:
			t.symlink(name, h.Linkname)
		case tar.TypeLink:
			t[name] = t[clean(h.Linkname)]
		}
	}
}

// run runs a program of this machine and returns what it printed. Its locale and time zone are always the same.
func run(ctx context.Context, env []string, name string, args ...string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, program(name), args...)
	cmd.Env = append(append(os.Environ(), "LC_ALL=C", "TZ=UTC"), env...)
	var out, said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &said
	if err := cmd.Run(); err != nil {
		return nil, fmt.Errorf("%s: %w: %s", path.Base(name), err, strings.TrimSpace(said.String()))
	}
	return out.Bytes(), nil
}

// program finds the makers of file systems where they are not in an ordinary user's PATH.
func program(name string) string {
	if strings.Contains(name, "/") {
		return name
	}
	if _, err := exec.LookPath(name); err != nil {
		for _, d := range []string{"/usr/sbin", "/sbin"} {
			if p, err := exec.LookPath(filepath.Join(d, name)); err == nil {
				return p
			}
		}
	}
	return name
}

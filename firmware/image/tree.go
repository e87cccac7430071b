package image

import (
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path"
	"slices"
	"strings"
)

// tree is a file system in memory, by absolute path: what one puts in it has no owner, no time and only the modes that
// it is given here, so that nothing of the machine that builds gets into an image. Directories come by themselves.
type tree map[string]node

type node struct {
	data []byte
	link string // of a symbolic link; then there is no data
	exec bool
}

func (t tree) file(name string, data []byte)    { t[clean(name)] = node{data: data} }
func (t tree) program(name string, data []byte) { t[clean(name)] = node{data: data, exec: true} }
func (t tree) symlink(name, target string)      { t[clean(name)] = node{link: target} }

func clean(name string) string { return path.Clean("/" + name) }

// names are the paths in order.
func (t tree) names() []string { return slices.Sorted(maps.Keys(t)) }

// below are the paths in a directory and its directories, in order.
func (t tree) below(dir string) (r []string) {
	for _, n := range t.names() {
		if strings.HasPrefix(n, clean(dir)+"/") {
			r = append(r, n)
		}
	}
	return r
}

// dirs are the directories that the paths need, the outer before the inner.
func (t tree) dirs() []string {
	all := map[string]bool{}
	for n := range t {
		for d := path.Dir(n); d != "/"; d = path.Dir(d) {
			all[d] = true
		}
	}
	return slices.Sorted(maps.Keys(all))
}

// resolve follows symbolic links, of the file and of its directories, within the tree.
func (t tree) resolve(name string) (string, node, error) {
	name = clean(name)
	for range 40 { // as many as Linux follows
		if n, ok := t[name]; ok {
			if n.link == "" {
				return name, n, nil
			}
			name = follow(path.Dir(name), n.link)
			continue
		}
		moved := false
		for d := path.Dir(name); d != "/"; d = path.Dir(d) {
			if n, ok := t[d]; ok && n.link != "" {
				name, moved = follow(path.Dir(d), n.link)+strings.TrimPrefix(name, d), true
				break
			}
		}
		if !moved {
			break
		}
	}
	return "", node{}, fmt.Errorf("%s: %w", name, fs.ErrNotExist)
}

func follow(dir, link string) string {
	if path.IsAbs(link) {
		return clean(link)
	}
	return clean(path.Join(dir, link))
}

// read adds a directory of this machine at dst.
func (t tree) read(src fs.FS, dst string) error {
	return fs.WalkDir(src, ".", func(p string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		b, err := fs.ReadFile(src, p)
		if err == nil {
			t.file(path.Join(dst, p), b)
		}
		return err
	})
}

// readDir is read of a directory by its path.
func (t tree) readDir(dir, dst string) error {
	if err := t.read(os.DirFS(dir), dst); err != nil {
		return fmt.Errorf("directory %s: %w", dir, err)
	}
	return nil
}

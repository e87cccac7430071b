package emu

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"path"
	"sort"
	"strings"
)

// Payload is what a test puts beside the product's files: by the path in the board, the file of this host. It is unpacked
// over the product's initial file system, which is the whole system.
type Payload map[string]string

// cpio writes the payload as an archive in the format "newc" of the kernel's early user space
// (Documentation/driver-api/early-userspace/buffer-format.rst). Everything in it may be executed.
func (p Payload) cpio(w io.Writer) error {
	var names []string
	dirs := make(map[string]bool)
	for name := range p {
		names = append(names, name)
		for d := path.Dir(name); d != "/" && d != "."; d = path.Dir(d) {
			dirs[d] = true
		}
	}
	for d := range dirs {
		names = append(names, d)
	}
	sort.Strings(names) // a directory before what is in it
	inode := 0
	entry := func(name string, mode int, data []byte) error {
		inode++
		name = strings.TrimPrefix(name, "/")
		var b bytes.Buffer
		fmt.Fprintf(&b, "070701%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%s\x00",
			inode, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(name)+1, 0, name)
		pad(&b)
		b.Write(data)
		pad(&b)
		_, err := w.Write(b.Bytes())
		return err
	}
	for _, name := range names {
		if dirs[name] {
			if err := entry(name, 0o040755, nil); err != nil {
				return err
			}
			continue
		}
		data, err := os.ReadFile(p[name])
		if err != nil {
			return fmt.Errorf("payload %s: %w", name, err)
		}
		if err := entry(name, 0o100755, data); err != nil {
			return err
		}
	}
	return entry("TRAILER!!!", 0, nil)
}

// pad fills up to the next multiple of four bytes.
func pad(b *bytes.Buffer) { b.Write(make([]byte, -b.Len()&3)) }

package image

import (
	"bufio"
	"fmt"
	"io"
)

// writeCPIO writes the tree as the kernel's initial file system, in the format "newc"
// (Documentation/driver-api/early-userspace/buffer-format.rst). Owner, times and inodes are the same for everybody.
func (t tree) writeCPIO(w io.Writer) error {
	c := &cpioWriter{w: bufio.NewWriterSize(w, 1<<16)}
	for _, d := range t.dirs() {
		c.entry(d, 0o040755, nil, 0, 0)
	}
	c.entry("/dev", 0o040755, nil, 0, 0)
	c.entry("/dev/console", 0o020600, nil, 5, 1) // the kernel opens it for PID 1 before anything is mounted
	c.entry("/dev/null", 0o020666, nil, 1, 3)    // where there is no console, the Go runtime opens it instead, or ends PID 1
	for _, name := range t.names() {
		switch n := t[name]; {
		case n.link != "":
			c.entry(name, 0o120777, []byte(n.link), 0, 0)
		case n.exec:
			c.entry(name, 0o100755, n.data, 0, 0)
		default:
			c.entry(name, 0o100644, n.data, 0, 0)
		}
	}
	c.inode = -1
	c.entry("/TRAILER!!!", 0, nil, 0, 0)
	return c.w.Flush() // which reports the first error of all
}

type cpioWriter struct {
	w     *bufio.Writer
	inode int
}

func (c *cpioWriter) entry(name string, mode int, data []byte, major, minor int) {
	c.inode++
	name = name[1:]
	n, _ := fmt.Fprintf(c.w, "070701%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%s\x00",
		c.inode, mode, 0, 0, 1, 0, len(data), 0, 0, major, minor, len(name)+1, 0, name)
	c.pad(n)
	_, _ = c.w.Write(data)
	c.pad(len(data))
}

// pad fills up to the next multiple of four bytes.
func (c *cpioWriter) pad(n int) { _, _ = c.w.WriteString("\x00\x00\x00"[:-n&3]) }

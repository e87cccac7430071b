package boot

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"fieldkit/firmware/card"
)

// loader loads drivers into the kernel. It may be used by any number of goroutines.
type loader struct {
	dir     string // /lib/modules/VERSION
	cmdline string
	index   *modules
	log     *slog.Logger

	mu     sync.Mutex
	failed map[string]error
}

func newLoader(log *slog.Logger) (*loader, error) {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return nil, fmt.Errorf("version of the kernel: %w", err)
	}
	l := &loader{dir: "/lib/modules/" + unix.ByteSliceToString(u.Release[:]), log: log, failed: map[string]error{}}
	var files [3][]byte
	for i, name := range []string{"modules.dep", "modules.alias", "modules.softdep"} {
		b, err := readLimited(filepath.Join(l.dir, name), maxModuleFile)
		if err != nil && i == 0 {
			return nil, err
		}
		files[i] = b
	}
	l.index = parseModules(files[0], files[1], files[2])
	b, err := readLimited("/proc/cmdline", 64<<10)
	l.cmdline = string(b)
	return l, err
}

// readLimited reads a file of at most limit bytes.
func readLimited(path string, limit int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err == nil && int64(len(b)) > limit {
		err = fmt.Errorf("%s: more than %d bytes", path, limit)
	}
	return b, err
}

// load loads what a name or an alias stands for, with what it needs; true if there is something.
func (l *loader) load(name string) bool {
	loaded := false
	for _, n := range l.index.resolve(name) {
		for _, each := range l.index.order(n) {
			err := l.insert(each)
			loaded = loaded || err == nil && each == n
		}
	}
	return loaded
}

// insert loads one module. One that is loaded is none to fail.
func (l *loader) insert(name string) error {
	path := filepath.Join(l.dir, l.index.files[name])
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return err // depmod knew more modules than the image has
	}
	if err == nil {
		flags := 0
		if !strings.HasSuffix(path, ".ko") {
			flags = unix.MODULE_INIT_COMPRESSED_FILE
		}
		err = unix.FinitModule(int(f.Fd()), parameters(l.cmdline, name), flags)
		_ = f.Close()
	}
	if errors.Is(err, unix.EEXIST) {
		return nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if err != nil && l.failed[name] == nil && len(l.failed) < maxModules {
		l.failed[name] = err
		l.log.Warn("module not loaded", "module", name, "err", err)
	}
	return err
}

// failures lists the modules that could not be loaded.
func (l *loader) failures() (r []string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for name, err := range l.failed {
		r = append(r, fmt.Sprintf("%s: %v", name, err))
	}
	return r
}

// boot loads the modules that the image lists in their order, then those that the devices want which are there.
func (l *loader) boot() {
	b, err := readLimited(filepath.Join(l.dir, card.LoadOrderFile), maxModuleFile)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		l.log.Warn("list of modules", "err", err)
	}
	for line := range bytes.Lines(b) {
		if name := strings.TrimSpace(string(line)); name != "" && !strings.HasPrefix(name, "#") {
			l.load(name)
		}
	}
	seen := map[string]bool{}
	_ = filepath.WalkDir("/sys/devices", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.Name() != "modalias" {
			return nil //nolint:nilerr // devices come and go while this walks
		}
		b, err := readLimited(path, maxModuleName)
		if a := strings.TrimSpace(string(b)); err == nil && !seen[a] {
			seen[a] = true
			l.load(a)
		}
		return nil
	})
}

// watch loads modules for devices that come later, such as USB network adapters, until the socket fails.
func (l *loader) watch() error {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_KOBJECT_UEVENT)
	if err != nil {
		return fmt.Errorf("events of devices: %w", err)
	}
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: 1}); err != nil {
		return errors.Join(fmt.Errorf("events of devices: %w", err), unix.Close(fd))
	}
	go func() {
		b := make([]byte, 16<<10)
		for {
			n, from, err := unix.Recvfrom(fd, b, 0)
			if errors.Is(err, unix.EINTR) || errors.Is(err, unix.ENOBUFS) {
				continue
			}
			if err != nil {
				l.log.Warn("events of devices", "err", err)
				return
			}
			// Only what the kernel itself sends: others could have any module loaded.
			if a, ok := from.(*unix.SockaddrNetlink); ok && a.Pid == 0 {
				if name := parseUevent(b[:n]); name != "" {
					l.load(name)
				}
			}
		}
	}()
	return nil
}

// Modprobe is what the kernel runs as /sbin/modprobe to load the module that it calls args[0], options before it left
// out. It loads only what is in the image's lists, and returns the exit status.
func Modprobe(args []string) int {
	var names []string
	options := true
	for _, a := range args {
		switch {
		case options && a == "--":
			options = false
		case options && strings.HasPrefix(a, "-"):
		default:
			names = append(names, a)
		}
	}
	l, err := newLoader(slog.New(slog.DiscardHandler))
	if err != nil || len(names) == 0 || !l.load(names[0]) {
		return 1
	}
	return 0
}

package image

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"fieldkit/firmware/card"
)

func TestLockFile(t *testing.T) {
	list, err := parseLock(lockFile)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, p := range list {
		if slices.Contains(names, p.name) {
			t.Errorf("%s twice", p.name)
		}
		names = append(names, p.name)
	}
	for _, want := range []string{"hostapd", "wpasupplicant", "e2fsprogs", "wireless-regdb", "firmware-brcm80211", "raspi-firmware"} {
		if !slices.Contains(names, want) {
			t.Errorf("no %s", want)
		}
	}
	if k := bySet(list, kernelSet); len(k) != 1 || !strings.HasPrefix(k[0].name, "linux-image-") {
		t.Errorf("kernels: %v", k)
	}
	sum := strings.Repeat("0f", 32)
	for name, line := range map[string]string{
		"too few":     "system hostapd 1 2 " + sum,
		"set":         "other hostapd 1 2 " + sum + " pool/h.deb",
		"size":        "system hostapd 1 x " + sum + " pool/h.deb",
		"no bytes":    "system hostapd 1 0 " + sum + " pool/h.deb",
		"sum":         "system hostapd 1 2 0f pool/h.deb",
		"other place": "system hostapd 1 2 " + sum + " ../../h.deb",
		"rooted":      "system hostapd 1 2 " + sum + " /h.deb",
		"no package":  "system hostapd 1 2 " + sum + " pool/h",
	} {
		if list, err := parseLock("# fine\n" + line + "\n"); err == nil {
			t.Errorf("%s: %v", name, list)
		}
	}
}

// Packages come from whichever mirror has them, and are believed only after their checksum.
func TestFetch(t *testing.T) {
	t.Setenv("no_proxy", "127.0.0.1")
	const name = "pool/main/x/x++/x++_1.0-1+b1_arm64.deb"
	content := []byte("a package")
	mirror := func(b []byte) string {
		s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path != "/debian/"+name || b == nil {
				http.NotFound(w, r)
				return
			}
			_, _ = w.Write(b)
		}))
		t.Cleanup(s.Close)
		return s.URL + "/debian/"
	}
	sum := sha256.Sum256(content)
	p := debPackage{set: systemSet, name: "x++", version: "1.0-1+b1", size: int64(len(content)), sum: hex.EncodeToString(sum[:]), path: name}
	quiet := func(string, ...any) {}
	for what, mirrors := range map[string][]string{
		"the second":                  {mirror(nil), mirror(content)},
		"beside one that was altered": {mirror([]byte("another p")), mirror(content)},
		"beside one that is shorter":  {mirror(content[:5]), mirror(content)},
	} {
		d := debs{dir: t.TempDir(), list: []debPackage{p}, mirrors: mirrors}
		if err := d.fetch(t.Context(), quiet); err != nil {
			t.Errorf("%s: %v", what, err)
		}
		if b, err := os.ReadFile(d.file(p)); err != nil || !bytes.Equal(b, content) {
			t.Errorf("%s: %q, %v", what, b, err)
		}
		d.mirrors = []string{} // what is there is not fetched again
		if err := d.fetch(t.Context(), quiet); err != nil {
			t.Errorf("%s: again: %v", what, err)
		}
		if err := os.WriteFile(d.file(p), []byte("another p"), 0o644); err != nil {
			t.Fatal(err)
		}
		if err := d.fetch(t.Context(), quiet); err == nil || !strings.Contains(err.Error(), "not what") {
			t.Errorf("%s: altered in the cache: %v", what, err)
		}
	}
	// A version that no mirror has says what to do.
	d := debs{dir: t.TempDir(), list: []debPackage{p}, mirrors: []string{mirror(nil), mirror([]byte("another p"))}}
	err := d.fetch(t.Context(), quiet)
	if err == nil || !strings.Contains(err.Error(), "scripts/image-lock") || !strings.Contains(err.Error(), d.dir) {
		t.Errorf("a package that no mirror has: %v", err)
	}
	if left, _ := os.ReadDir(d.dir); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

func TestModuleWithAnotherSumIsRefused(t *testing.T) {
	if _, err := downloadModule(t.Context(), bootModule, bootVersion, kernelSum); err == nil || !strings.Contains(err.Error(), "want "+kernelSum) {
		t.Errorf("boot files with another sum: %v", err)
	}
}

func TestTreeFollowsLinks(t *testing.T) {
	r := tree{}
	r.file("/usr/lib/a/libx.so.1.2", []byte("x"))
	r.symlink("/usr/lib/a/libx.so.1", "libx.so.1.2")
	r.symlink("/lib", "usr/lib")
	r.symlink("/lib64", "/lib")
	r.symlink("/loop", "loop2")
	r.symlink("/loop2", "/loop")
	r.symlink("/up", "../../../usr/lib/a/libx.so.1")
	for _, name := range []string{"/usr/lib/a/libx.so.1", "/lib/a/libx.so.1", "lib64/a/libx.so.1.2", "/up"} {
		if at, n, err := r.resolve(name); err != nil || at != "/usr/lib/a/libx.so.1.2" || string(n.data) != "x" {
			t.Errorf("%s: %s, %v", name, at, err)
		}
	}
	for _, name := range []string{"/loop", "/lib/b", "/nothing", "/usr/lib/a/libx.so.1/more"} {
		if at, _, err := r.resolve(name); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s: %s, %v", name, at, err)
		}
	}
	if got, want := r.dirs(), []string{"/usr", "/usr/lib", "/usr/lib/a"}; !slices.Equal(got, want) {
		t.Errorf("directories %v: want %v", got, want)
	}
}

// A program is refused with a word about what is missing, not put on a card where it would not start.
func TestAddProgramRefuses(t *testing.T) {
	self, err := os.ReadFile(program("/bin/true"))
	if err != nil {
		t.Fatal(err)
	}
	from := tree{}
	from.program("/bin/here", self)
	from.program("/bin/text", bytes.Repeat([]byte("#!/bin/sh\n"), 20))
	for name, want := range map[string]string{"/bin/gone": "does not exist", "/bin/text": "bad magic"} {
		if err := (tree{}).addProgram(from, name); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v: want %q", name, err, want)
		}
	}
	// This machine's own program: of the wrong kind, or, on arm64, without its libraries.
	if err := (tree{}).addProgram(from, "/bin/here"); err == nil || !strings.Contains(err.Error(), "/bin/here") {
		t.Errorf("/bin/here: %v", err)
	}
}

// Debian's kernel has nearly everything as a module: the modules that are named are in it, with all that they need.
func TestDebianKernel(t *testing.T) {
	if testing.Short() {
		t.Skip("60 MB of kernel")
	}
	list, err := parseLock(lockFile)
	if err != nil {
		t.Fatal(err)
	}
	b := &builder{o: Options{Kernel: KernelDebian, Cache: filepath.Join(root(t), ".cache", "image")}, log: os.Stderr}
	k, err := b.kernel(context.Background(), list)
	if err != nil {
		t.Fatal(err)
	}
	system := tree{}
	if err := k.modules.add(system, k.boot, k.more); err != nil {
		t.Fatal(err)
	}
	dir := "/lib/modules/" + k.version + "/"
	order := strings.Fields(string(system[dir+card.LoadOrderFile].data))
	before := func(a, b string) {
		t.Helper()
		at := func(name string) int {
			return slices.IndexFunc(order, func(f string) bool { return moduleName(f) == name })
		}
		if at(a) < 0 || at(b) < at(a) {
			t.Errorf("%s is number %d, %s %d", a, at(a), b, at(b))
		}
	}
	before("virtio_pci", "virtio_blk")
	before("libarc4", "mac80211")
	before("cfg80211", "mac80211")
	before("jbd2", "ext4")
	before("nfnetlink", "nf_tables")
	if slices.ContainsFunc(order, func(f string) bool { return moduleName(f) == "mac80211_hwsim" }) {
		t.Error("simulated radios are loaded at boot, on real boards, too")
	}
	for _, want := range []string{"mac80211_hwsim", "batman_adv", "nft_ct"} {
		if !strings.Contains(string(system[dir+"modules.dep"].data), "/"+strings.ReplaceAll(want, "batman_adv", "batman-adv")+".ko:") {
			t.Errorf("modules.dep has no %s", want)
		}
	}
	if !bytes.Contains(system[dir+"modules.alias"].data, []byte(" virtio_net\n")) {
		t.Error("modules.alias has no virtio_net")
	}
	if _, err := k.modules.closure(nil, "no_such_module", true); err == nil {
		t.Error("a module that is not there is found")
	}
	if got, err := k.modules.closure(nil, "unix", true); err != nil || len(got) != 0 {
		t.Errorf("what is built in: %v, %v", got, err)
	}
	if _, ok := k.dtbs["/bcm2711-rpi-4-b.dtb"]; !ok || len(k.licence) == 0 || !strings.Contains(k.source, "linux") {
		t.Errorf("device trees %v, licence of %d bytes, source %q", k.dtbs.names(), len(k.licence), k.source)
	}
}

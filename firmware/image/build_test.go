package image

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/klauspost/compress/zstd"

	"fieldkit/firmware/card"
	"fieldkit/firmware/config"
)

// tool runs a program of the distribution, which is how an image is checked by somebody else.
func tool(t *testing.T, name string, args ...string) string {
	t.Helper()
	out, err := run(t.Context(), []string{"MTOOLS_SKIP_CHECK=1"}, name, args...)
	if err != nil {
		t.Fatalf("%s %v: %v\n%s", name, args, err, out)
	}
	return string(out)
}

// root is the project's tree, which is also where what was fetched is kept from test to test.
func root(t *testing.T) string {
	t.Helper()
	r, err := Root(".")
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func goEnv(t *testing.T, key string) string { return strings.TrimSpace(tool(t, "go", "env", key)) }

// build runs the operator's tool as another user on another machine might.
type build struct {
	user  int // the user and group that it thinks it is; 0 is whoever tests
	umask int
	cwd   string
	env   []string
}

func (b build) run(t *testing.T, program string, args ...string) string {
	t.Helper()
	cmd := exec.Command("sh", append([]string{"-c", fmt.Sprintf(`umask %03o; exec "$0" "$@"`, b.umask), program}, args...)...)
	cmd.Dir, cmd.Env = b.cwd, append(os.Environ(), b.env...)
	if b.user != 0 {
		// In a user namespace: every program sees another user, who has no rights over anything of the system.
		cmd.SysProcAttr = &syscall.SysProcAttr{
			Cloneflags:  syscall.CLONE_NEWUSER,
			UidMappings: []syscall.SysProcIDMap{{ContainerID: b.user, HostID: os.Getuid(), Size: 1}},
			GidMappings: []syscall.SysProcIDMap{{ContainerID: b.user, HostID: os.Getgid(), Size: 1}},
		}
	}
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s %v: %v\n%s", program, args, err, out)
	}
	return string(out)
}

// clone makes a clean copy of the source tree at a place of its own.
func clone(t *testing.T, name string) string {
	t.Helper()
	at := filepath.Join(t.TempDir(), name)
	tool(t, "git", "clone", "-q", root(t), at)
	return at
}

// An image is the same bytes whoever builds it, with whatever rights, wherever and whenever.
func TestImageIsTheSameWhoeverBuildsIt(t *testing.T) {
	program := filepath.Join(t.TempDir(), "fieldkit")
	tool(t, "go", "build", "-o", program, "fieldkit/firmware/cmd/fieldkit")
	cache := filepath.Join(root(t), ".cache", "image")
	one, other := clone(t, "one"), clone(t, "a tree with blanks")
	first := build{umask: 0o022, cwd: one}
	said := first.run(t, program, "image", "--cache", cache)
	img := filepath.Join(one, "build", "card", ImageFile)

	out := t.TempDir()
	second := build{user: 1234, umask: 0o077, cwd: "/", env: []string{
		"HOME=" + t.TempDir(), "USER=somebody", "LANG=tr_TR.UTF-8", "LC_ALL=tr_TR.UTF-8", "TZ=Pacific/Kiritimati", "GOFLAGS=-tags=netgo",
		"GOCACHE=" + goEnv(t, "GOCACHE"), "GOMODCACHE=" + goEnv(t, "GOMODCACHE"), "GOARCH=amd64", "CGO_ENABLED=1", "MTOOLS_LOWER_CASE=1",
		"TMPDIR=" + t.TempDir(),
	}}
	second.run(t, program, "image", "--source", other, "--cache", cache, "--out", out)
	for _, f := range []string{ImageFile, InitrdFile, KernelFile, card.ReleaseFile, card.PackagesFile} {
		if cmp, err := exec.Command("cmp", filepath.Join(filepath.Dir(img), f), filepath.Join(out, f)).CombinedOutput(); err != nil {
			t.Errorf("built twice: %s: %s", f, cmp)
		}
	}
	if left, _ := filepath.Glob(filepath.Join(out, "work-*")); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}

	t.Run("report", func(t *testing.T) { checkReport(t, img, said) })
	t.Run("partition table", func(t *testing.T) { checkTable(t, img) })
	t.Run("file systems", func(t *testing.T) { checkFileSystems(t, img) })
	t.Run("boot partition", func(t *testing.T) { checkBootPartition(t, img) })
	t.Run("slot", func(t *testing.T) { checkSlot(t, img) })
	t.Run("system", func(t *testing.T) { checkSystem(t, filepath.Join(filepath.Dir(img), InitrdFile)) })
	t.Run("beside the image", func(t *testing.T) { checkBeside(t, filepath.Dir(img), img) })
}

func checkReport(t *testing.T, img, said string) {
	sum := strings.Fields(tool(t, "sha256sum", img))[0]
	for _, want := range []string{img, sum, "hostapd", "LICENSES/go.txt", "6.12.47-v8", "Debian source package wpa", "How to get the sources", " MB"} {
		if !strings.Contains(said, want) {
			t.Errorf("nothing is said of %q:\n%s", want, said)
		}
	}
}

func checkTable(t *testing.T, img string) {
	tool(t, "sfdisk", "-V", "-q", img)
	var table struct {
		PartitionTable struct {
			Label, ID  string
			Partitions []struct {
				Start, Size int64
				Type        string
				Bootable    bool
			}
		}
	}
	if err := json.Unmarshal([]byte(tool(t, "sfdisk", "-J", img)), &table); err != nil {
		t.Fatal(err)
	}
	p := table.PartitionTable
	if p.Label != "dos" || p.ID != "0x4b495430" || len(p.Partitions) != 4 {
		t.Fatalf("partition table %+v", p)
	}
	for i, want := range card.Partitions() {
		got := p.Partitions[i]
		if got.Start*512 != want.Offset || got.Size*512 != want.Size || got.Type != strconv.FormatInt(int64(want.Type), 16) || got.Bootable != (i == 0) {
			t.Errorf("partition %d: %+v: want %+v", i+1, got, want)
		}
	}
}

// part copies a partition out of an image.
func part(t *testing.T, img string, p card.Partition) string {
	t.Helper()
	b := make([]byte, p.Size)
	f, err := os.Open(img)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.ReadAt(b, p.Offset); err != nil {
		t.Fatal(err)
	}
	at := filepath.Join(t.TempDir(), p.Label)
	if err := os.WriteFile(at, b, 0o600); err != nil {
		t.Fatal(err)
	}
	return at
}

func checkFileSystems(t *testing.T, img string) {
	for _, p := range []card.Partition{card.Boot, card.SlotA, card.SlotB} {
		at := part(t, img, p)
		tool(t, "fsck.fat", "-n", "-V", at)
		if l := tool(t, "mlabel", "-s", "-i", at, "::"); !strings.Contains(l, "label is "+p.Label) {
			t.Errorf("partition %d: %s", p.Number, l)
		}
		if i := tool(t, "minfo", "-i", at, "::"); !strings.Contains(i, `disk type="FAT32   "`) {
			t.Errorf("partition %s is not FAT32:\n%s", p.Label, i)
		}
	}
	perm := part(t, img, card.Perm)
	tool(t, "e2fsck", "-fn", perm)
	info := tool(t, "dumpe2fs", "-h", perm)
	for _, want := range []string{"volume name:   perm", "has_journal", "Filesystem state:         clean", "Reserved block count:     0"} {
		if !strings.Contains(info, want) {
			t.Errorf("perm: nothing of %q:\n%s", want, info)
		}
	}
}

func checkBootPartition(t *testing.T, img string) {
	at := part(t, img, card.Boot)
	auto := tool(t, "mtype", "-i", at, "::"+card.AutobootFile)
	want, err := card.AutobootFor(card.A).Render()
	if err != nil || auto != string(want[:]) || len(auto) != 512 {
		t.Errorf("%s of %d bytes: %q", card.AutobootFile, len(auto), auto)
	}
	for _, f := range []string{card.ConfigFile, "bootcode.bin", "LICENSE.broadcom"} {
		tool(t, "mtype", "-i", at, "::"+f)
	}
	if kit := tool(t, "mtype", "-i", at, "::"+card.KitFile); kit != KitTemplate {
		t.Errorf("%s: %q", card.KitFile, kit)
	}
	f, err := os.Open(img)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := card.ReadPersonal(f); err == nil || !strings.Contains(err.Error(), card.ErrNoPersonal.Error()) {
		t.Errorf("the neutral image is personalised: %v", err)
	}
}

func checkSlot(t *testing.T, img string) {
	at := part(t, img, card.SlotA)
	files := map[string]string{}
	for line := range strings.Lines(tool(t, "mdir", "-b", "-/", "-i", at, "::")) {
		files[strings.TrimPrefix(strings.TrimSpace(line), "::/")] = ""
	}
	for _, f := range []string{
		card.KernelFile, card.InitrdFile, card.ConfigFile, card.CmdlineFile, card.ReleaseFile, card.PackagesFile,
		"bootcode.bin", "start_cd.elf", "fixup_cd.dat", "start4cd.elf", "fixup4cd.dat", "LICENSE.broadcom",
		"bcm2710-rpi-3-b.dtb", "bcm2710-rpi-3-b-plus.dtb", "bcm2711-rpi-4-b.dtb", "bcm2711-rpi-400.dtb", "bcm2711-rpi-cm4.dtb", "bcm2712-rpi-5-b.dtb", "bcm2712-d-rpi-5-b.dtb",
		"overlays/disable-bt.dtbo", "overlays/disable-bt-pi5.dtbo", "LICENSES/SOURCES.txt", "LICENSES/go.txt", "LICENSES/linux.txt", "LICENSES/broadcom.txt", "LICENSES/hostapd.txt", "LICENSES/common/GPL-2.txt", "LICENSES/common/LGPL-2.1.txt", "LICENSES/common/CC0-1.0.txt",
	} {
		if _, ok := files[f]; !ok {
			t.Errorf("slot A has no %s", f)
		}
	}
	read := func(name string) string { return tool(t, "mtype", "-i", at, "::"+name) }
	overlayMap := filepath.Join(t.TempDir(), "overlay_map.dtb")
	tool(t, "mcopy", "-i", at, "::overlays/overlay_map.dtb", overlayMap)
	// What the firmware is told to load is there, overlays too.
	settings := read(card.ConfigFile)
	for line := range strings.Lines(settings) {
		key, value, _ := strings.Cut(strings.TrimSpace(line), "=")
		name := ""
		switch {
		case key == "kernel":
			name = value
		case strings.HasPrefix(key, "initramfs "):
			name = strings.Fields(key)[1]
		case key == "dtoverlay":
			name = "overlays/" + value + ".dtbo"
			// On each generation of boards the firmware may take another file, as overlay_map.dtb says.
			for _, soc := range []string{"bcm2835", "bcm2711", "bcm2712"} {
				there := strings.TrimSpace(tool(t, "fdtget", "-t", "s", overlayMap, "/"+value, soc))
				if _, ok := files["overlays/"+there+".dtbo"]; there != "" && !ok {
					t.Errorf("%s names %s, for which a board with %s wants %s", card.ConfigFile, value, soc, there)
				}
			}
		}
		if _, ok := files[name]; name != "" && !ok {
			t.Errorf("%s names %s, which is not there", card.ConfigFile, name)
		}
		if len(line) > 98 { // longer lines are cut
			t.Errorf("%s: line of %d bytes", card.ConfigFile, len(line))
		}
	}
	if c := read(card.CmdlineFile); strings.Count(c, "\n") != 1 || !strings.Contains(c, "rdinit=/init") || !strings.Contains(c, "panic=10") {
		t.Errorf("%s: %q", card.CmdlineFile, c)
	}
	packages := read(card.PackagesFile)
	for line := range strings.Lines(packages) {
		for _, f := range strings.Fields(line) {
			if _, ok := files[f]; strings.HasPrefix(f, card.LicensesDir+"/") && !ok {
				t.Errorf("%s names %s, which is not there", card.PackagesFile, f)
			}
		}
	}
	if r, err := card.ParseRelease([]byte(read(card.ReleaseFile))); err != nil || strings.Contains(r.Version, "dirty") || !strings.Contains(packages, r.Commit) {
		t.Errorf("release %+v, %v", r, err)
	}
	for f := range files {
		if strings.HasPrefix(f, card.LicensesDir+"/") && strings.HasSuffix(f, ".txt") && len(read(f)) < 400 {
			t.Errorf("%s: only %q", f, read(f))
		}
	}
	if b := tool(t, "mdir", "-b", "-i", part(t, img, card.SlotB), "::"); strings.TrimSpace(b) != "" {
		t.Errorf("slot B is not empty: %s", b)
	}
}

// entry is a file of an initial file system.
type entry struct {
	mode int
	data []byte
}

// readCPIO reads the format "newc"; it knows nothing of how it was written.
func readCPIO(t *testing.T, b []byte) map[string]entry {
	t.Helper()
	r := map[string]entry{}
	for order := ""; ; {
		if len(b) < 110 || string(b[:6]) != "070701" {
			t.Fatal("not newc")
		}
		var f [13]int
		for i := range f {
			n, err := strconv.ParseUint(string(b[6+8*i:14+8*i]), 16, 32)
			if err != nil {
				t.Fatal(err)
			}
			f[i] = int(n)
		}
		name := string(b[110 : 110+f[11]-1])
		b = b[(110+f[11]+3)&^3:]
		if name == "TRAILER!!!" {
			return r
		}
		if f[2] != 0 || f[3] != 0 || f[5] != 0 {
			t.Errorf("%s: owner %d:%d, time %d: want none", name, f[2], f[3], f[5])
		}
		if _, ok := r[filepath.Dir(name)]; !ok && filepath.Dir(name) != "." {
			t.Errorf("%s comes before its directory, after %s", name, order)
		}
		r[name], order = entry{f[1], b[:f[6]]}, name
		b = b[(f[6]+3)&^3:]
	}
}

func checkSystem(t *testing.T, initrd string) {
	f, err := os.ReadFile(initrd)
	if err != nil {
		t.Fatal(err)
	}
	z, err := zstd.NewReader(nil)
	if err != nil {
		t.Fatal(err)
	}
	defer z.Close()
	b, err := z.DecodeAll(f, nil)
	if err != nil {
		t.Fatal(err)
	}
	files := readCPIO(t, b)
	for name, mode := range map[string]int{
		"init": 0o100755, "usr/sbin/hostapd": 0o100755, "sbin/wpa_supplicant": 0o100755, "sbin/e2fsck": 0o100755, "sbin/mke2fs": 0o100755,
		"sbin/modprobe": 0o120777, "usr/bin/fieldkitd": 0o120777, "dev/console": 0o020600, "etc/fieldkit/release.json": 0o100644,
		"lib/firmware/regulatory.db": 0o100644, "lib/firmware/regulatory.db.p7s": 0o100644, "lib/ld-linux-aarch64.so.1": 0o100755,
		// A radio's firmware, its settings for each board and its rules of the countries.
		"lib/firmware/brcm/brcmfmac43430-sdio.bin": 0o100644, "lib/firmware/brcm/brcmfmac43455-sdio.bin": 0o100644, "lib/firmware/brcm/brcmfmac43456-sdio.bin": 0o100644,
		"lib/firmware/brcm/brcmfmac43455-sdio.clm_blob":                       0o100644,
		"lib/firmware/brcm/brcmfmac43430-sdio.raspberrypi,3-model-b.txt":      0o100644,
		"lib/firmware/brcm/brcmfmac43455-sdio.raspberrypi,3-model-b-plus.txt": 0o100644,
		"lib/firmware/brcm/brcmfmac43455-sdio.raspberrypi,4-model-b.txt":      0o100644,
		"lib/firmware/brcm/brcmfmac43455-sdio.raspberrypi,5-model-b.txt":      0o120777,
	} {
		if files[name].mode != mode {
			t.Errorf("%s: mode %o: want %o", name, files[name].mode, mode)
		}
	}
	for name, e := range files {
		if e.mode&0o170000 == 0o120000 {
			target := filepath.Join(filepath.Dir("/"+name), string(e.data))
			if filepath.IsAbs(string(e.data)) {
				target = string(e.data)
			}
			if _, ok := files[target[1:]]; !ok {
				t.Errorf("%s points to %s, which is not there", name, target)
			}
		}
	}
	// Modules: whatever is loaded at boot comes after what it needs, and is there.
	dir := "lib/modules/6.12.47-v8/"
	needs := map[string][]string{}
	for line := range strings.Lines(string(files[dir+"modules.dep"].data)) {
		file, deps, ok := strings.Cut(strings.TrimSpace(line), ":")
		if _, there := files[dir+file]; !ok || !there {
			t.Errorf("modules.dep: %q", line)
		}
		needs[file] = strings.Fields(deps)
	}
	var loaded []string
	for line := range strings.Lines(string(files[dir+card.LoadOrderFile].data)) {
		file := strings.TrimSpace(line)
		for _, n := range needs[file] {
			if !slices.Contains(loaded, n) {
				t.Errorf("%s is loaded before %s", file, n)
			}
		}
		loaded = append(loaded, file)
	}
	if len(loaded) < 4 || !strings.HasSuffix(loaded[1], "/brcmfmac.ko") {
		t.Errorf("loaded at boot: %v", loaded)
	}
	if !bytes.Contains(files[dir+"modules.alias"].data, []byte("alias sdio:c*v02D0d4345* brcmfmac\n")) {
		t.Errorf("modules.alias does not know the radio of the 4")
	}
}

// checkBeside: what an emulator takes is what is in the slot.
func checkBeside(t *testing.T, dir, img string) {
	at := part(t, img, card.SlotA)
	for name, f := range map[string]string{InitrdFile: card.InitrdFile, filepath.Join(DTBDir, "bcm2711-rpi-4-b.dtb"): "bcm2711-rpi-4-b.dtb", card.ReleaseFile: card.ReleaseFile} {
		b, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil || string(b) != tool(t, "mtype", "-i", at, "::"+f) {
			t.Errorf("%s is not that of the slot: %v", name, err)
		}
	}
	kernel, err := os.ReadFile(filepath.Join(dir, KernelFile))
	// Documentation/arch/arm64/booting.rst: the header has "ARM\x64" at 56.
	if err != nil || len(kernel) < 64 || binary.LittleEndian.Uint32(kernel[56:]) != 0x644d5241 {
		t.Errorf("%s is not an arm64 kernel: %v", KernelFile, err)
	}
}

// The file that an operator finds on a card is one that a kit reads, also with everything in it in force.
func TestKitTemplateIsASettingsFile(t *testing.T) {
	if _, err := config.Parse([]byte(KitTemplate)); err != nil {
		t.Error(err)
	}
	var b strings.Builder
	for line := range strings.Lines(KitTemplate) {
		if l := strings.TrimPrefix(line, "# "); strings.HasPrefix(l, "[") || strings.Contains(l, " = ") {
			b.WriteString(l)
		}
	}
	c, err := config.Parse([]byte(b.String()))
	if err != nil || c.Kit.Number != 412 || c.Access.Country != "DE" {
		t.Errorf("%s: %+v, %v", b.String(), c, err)
	}
}

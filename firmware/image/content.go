package image

import (
	"fmt"
	"os"
	"path"
	"path/filepath"
	"strings"

	"fieldkit/firmware/card"
)

// Files of the boards' firmware. With gpu_mem=16 it is the cut-down ones ("cd") that are loaded; the others are there in
// case a board's ROM or EEPROM decides otherwise.
var (
	slotBoot      = []string{"bootcode.bin", "start_cd.elf", "fixup_cd.dat", "start4cd.elf", "fixup4cd.dat", "start.elf", "fixup.dat", "start4.elf", "fixup4.dat", "LICENSE.broadcom"}
	partitionBoot = []string{"bootcode.bin", "LICENSE.broadcom"} // which the ROM of the 3 wants on the first partition
)

const (
	// bootConfig is config.txt of the first partition: the ROM of the 3 wants it there, too.
	bootConfig = "# Which system boots is in autoboot.txt; its settings are in config.txt beside it.\n"

	slotConfig = `arm_64bit=1
kernel=` + card.KernelFile + `
initramfs ` + card.InitrdFile + ` followkernel
gpu_mem=16
disable_splash=1
boot_delay=0
enable_uart=1
`
	// The firmware puts the name of the board's serial port in the place of serial0. A kernel that panics starts again.
	cmdline = "console=serial0,115200 console=tty1 rdinit=/init panic=10 oops=panic quiet\n"
)

// KitTemplate is the settings file that an operator finds on the first partition of a card: all of it is commented out.
const KitTemplate = `# Settings of this kit. A kit needs none of them: take the # away from what you want to change.
# The kit reads this file when it starts. It is used as it is, and a mistake is told on the status page.

# [kit]
# number = 412          # 100 to 899, different for each kit of a mission
# name = "MAPLE 412"    # what people call it

# [access]
# country = "DE"        # where the kit is, two letters: which radio channels it may use
`

// system is what the kernel unpacks into memory: all of the running system.
func (b *builder) system(debian tree, k *kernel, daemon, release []byte) (tree, error) {
	s := tree{}
	s.program("/init", daemon)
	for _, name := range []string{"/sbin/modprobe", "/usr/bin/fieldkitd"} { // one program, which looks at its name
		s.symlink(name, "/init")
	}
	for _, p := range []string{"/usr/sbin/hostapd", "/sbin/wpa_supplicant", "/sbin/e2fsck", "/sbin/mke2fs"} {
		if err := s.addProgram(debian, p); err != nil {
			return nil, err
		}
	}
	s.file(card.RuntimeRelease, release)
	s.file("/etc/passwd", []byte("root:x:0:0::/:/init\n")) // hostapd and wpa_supplicant look up who may use their sockets
	s.file("/etc/group", []byte("root:x:0:\n"))
	if err := k.modules.add(s, k.boot, k.more); err != nil {
		return nil, err
	}
	return s, s.addFirmware(debian)
}

// addFirmware adds what the radios are loaded with, and the rules of the countries, which the kernel verifies.
func (t tree) addFirmware(debian tree) error {
	for _, name := range []string{"regulatory.db", "regulatory.db.p7s"} {
		// Of the two variants the one that the kernel's own developers signed: every kernel has their keys, Debian's only
		// Debian's.
		_, n, err := debian.resolve("/lib/firmware/" + name + "-upstream")
		if err != nil {
			return fmt.Errorf("rules of the countries: %w", err)
		}
		t.file("/lib/firmware/"+name, n.data)
	}
	found := 0
	for _, name := range debian.below("/lib/firmware/brcm") {
		base := path.Base(name)
		ours := strings.Contains(base, "43430-sdio") || strings.Contains(base, "43455-sdio") || strings.Contains(base, "43456-sdio")
		text := path.Ext(base) == ".txt"
		if !ours || text && !strings.Contains(base, "raspberrypi") && base != "brcmfmac43456-sdio.txt" {
			continue
		}
		_, n, err := debian.resolve(name)
		if err != nil {
			return fmt.Errorf("radio firmware: %w", err)
		}
		t.file(name, n.data)
		found++
	}
	if found < 10 {
		return fmt.Errorf("radio firmware: %d files found", found)
	}
	// The driver looks for what belongs to the board by the board's name, which is newer than Debian's package; the
	// radio is the same. The 400 and the 5 use the settings of the 4.
	const dir, four = "/lib/firmware/brcm/", "raspberrypi,4-model-b.txt"
	for _, b := range []string{"raspberrypi,5-model-b", "raspberrypi,4-compute-module", "raspberrypi,5-compute-module", "raspberrypi,500", "raspberrypi,400"} {
		name := dir + "brcmfmac43455-sdio." + b + ".txt"
		if _, ok := t[name]; !ok {
			t.symlink(name, "brcmfmac43455-sdio."+four)
		}
	}
	if _, ok := t[dir+"brcmfmac43455-sdio."+four]; !ok {
		return fmt.Errorf("radio firmware: no settings for the 4")
	}
	return nil
}

// bootFiles adds files of the boards' firmware.
func (t tree) bootFiles(dir string, names []string) error {
	for _, name := range names {
		b, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			return err
		}
		t.file(name, b)
	}
	return nil
}

package image

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"strings"
)

// kernel is one of the flavours.
type kernel struct {
	flavour string // KernelPi, KernelDebian or "other"
	version string // of uname -r
	image   []byte // not compressed
	dtbs    tree   // device trees and overlays, by their places in the slot
	modules *kernelModules
	boot    []string // modules that are loaded at boot
	more    []string // and those that are there to be asked for
	boards  string   // as card.Release has it
	config  string   // more lines of config.txt
	source  string   // where its source is
	licence []byte   // its text
}

// piModules is what the Raspberry Pi kernel does not have built in: the boards' own radios.
var piModules = []string{"brcmutil", "brcmfmac", "brcmfmac-wcc", "brcmfmac-cyw"}

// piMore is asked for by name: keys of the radio's management frames.
var piMore = []string{"cmac"}

// overlays are those that config.txt or an operator's may name, and those that overlay_map.dtb puts in their place on
// some board.
var overlays = []string{"disable-bt.dtbo", "disable-bt-pi5.dtbo", "miniuart-bt.dtbo", "i2c-rtc.dtbo", "overlay_map.dtb"}

func (b *builder) kernel(ctx context.Context, lock []debPackage) (*kernel, error) {
	switch b.o.Kernel {
	case KernelPi:
		dir, err := downloadModule(ctx, kernelModule, kernelVersion, kernelSum)
		if err != nil {
			return nil, err
		}
		k, err := kernelFromDir(dir, KernelPi)
		if err != nil {
			return nil, err
		}
		url, err := os.ReadFile(filepath.Join(dir, "_build", "upstream-url.txt"))
		k.boards = "brcm,bcm2837 brcm,bcm2711 brcm,bcm2712 linux,dummy-virt" // the last is QEMU's, for tests
		k.source = fmt.Sprintf("%s with the patches and settings in %s@%s/_build", strings.TrimSpace(string(url)), kernelModule, kernelVersion)
		return k, err
	case KernelDebian:
		return b.debianKernel(ctx, bySet(lock, kernelSet))
	}
	k, err := kernelFromDir(b.o.Kernel, "other")
	if err != nil {
		return nil, err
	}
	k.source = "whoever built it"
	return k, nil
}

// kernelFromDir reads a directory like that of KernelPi's module: vmlinuz, device trees, overlays, lib/modules/VERSION
// and LICENSE.linux.
func kernelFromDir(dir, flavour string) (*kernel, error) {
	// Bluetooth is of no use here, and takes the better serial port from the console.
	k := &kernel{flavour: flavour, dtbs: tree{}, boot: piModules, more: piMore, config: "dtoverlay=disable-bt\n"}
	var err error
	if k.image, err = os.ReadFile(filepath.Join(dir, "vmlinuz")); err != nil {
		return nil, err
	}
	if k.licence, err = os.ReadFile(filepath.Join(dir, "LICENSE.linux")); err != nil {
		return nil, err
	}
	versions, err := os.ReadDir(filepath.Join(dir, "lib", "modules"))
	if err != nil {
		return nil, err
	}
	if len(versions) != 1 {
		return nil, fmt.Errorf("%s: modules of %d versions: want one", dir, len(versions))
	}
	k.version = versions[0].Name()
	files := tree{}
	if err := files.readDir(filepath.Join(dir, "lib", "modules", k.version), "/lib/modules/"+k.version); err != nil {
		return nil, err
	}
	k.modules = newKernelModules(files, k.version)
	dtbs, err := filepath.Glob(filepath.Join(dir, "bcm271[0-2]*.dtb"))
	if err != nil || len(dtbs) == 0 {
		return nil, fmt.Errorf("%s: no device trees: %w", dir, errors.Join(err, os.ErrNotExist))
	}
	for _, o := range overlays {
		dtbs = append(dtbs, filepath.Join(dir, "overlays", o))
	}
	for _, f := range dtbs {
		data, err := os.ReadFile(f)
		if err != nil {
			return nil, err
		}
		rel, err := filepath.Rel(dir, f)
		if err != nil {
			return nil, err
		}
		k.dtbs.file(filepath.ToSlash(rel), data)
	}
	return k, nil
}

// Modules of Debian's kernel. It has nearly everything as a module, also what a board needs to see its card.
var (
	debianBoot = []string{
		// emulated boards
		"virtio_pci", "virtio_mmio", "virtio_blk", "virtio_net", "virtio_rng", "i6300esb",
		// cards, file systems
		"mmc_block", "sdhci-iproc", "bcm2835", "usb-storage", "ext4", "crc32c_generic", "vfat", "nls_cp437", "nls_ascii",
		// boards: clocks and power by the firmware, watchdog, random numbers
		"raspberrypi-cpufreq", "reset-raspberrypi", "bcm2835_wdt", "bcm2835-rng", "iproc-rng200",
		// Ethernet and USB Ethernet
		"genet", "broadcom", "bcm-phy-lib", "mdio-bcm-unimac", "lan78xx", "microchip", "smsc95xx", "dwc2", "xhci-pci", "pcie-brcmstb", "usbnet", "cdc_ether", "r8152", "ax88179_178a", "asix",
		// radios
		"cfg80211", "mac80211", "brcmfmac",
		// what DHCP, the firewall and the links use
		"af_packet", "nf_tables", "nfnetlink", "nf_conntrack",
	}
	debianMore = []string{
		"mac80211_hwsim", "ccm", "gcm", "cmac", "ctr", "cbc", "batman-adv", "bridge", "veth", "dummy", "tun", "8021q",
		"nft_ct", "nft_limit", "nft_log", "nft_reject", "nft_reject_inet", "nft_reject_ipv4", "nft_reject_ipv6", "nft_fib", "nft_fib_inet", "nft_fib_ipv4",
		"nft_fib_ipv6", "nft_nat", "nft_chain_nat", "nft_masq", "nft_redir", "nft_quota", "nft_connlimit", "nft_numgen", "nft_hash", "nft_meta_bridge",
		"nf_log_syslog", "nfnetlink_log", "nf_nat", "rtc-ds1307", "cdc-acm", "vsock", "vmw_vsock_virtio_transport", "9pnet_virtio",
	}
)

// debianKernel takes the kernel out of Debian's package.
func (b *builder) debianKernel(ctx context.Context, list []debPackage) (*kernel, error) {
	d := debs{dir: filepath.Join(b.o.Cache, "debs"), list: list}
	if err := d.fetch(ctx, b.say); err != nil {
		return nil, err
	}
	files, parts, err := d.unpack(ctx, kernelSet, func(name string) bool {
		return strings.HasPrefix(name, "/boot/vmlinuz-") || strings.HasPrefix(name, "/lib/modules/") || strings.Contains(name, "/broadcom/bcm2") || strings.HasSuffix(name, "/copyright")
	})
	if err != nil {
		return nil, err
	}
	if len(parts) != 1 {
		return nil, fmt.Errorf("%s: %d packages of the set %s: want one", lockName, len(parts), kernelSet)
	}
	k := &kernel{flavour: KernelDebian, dtbs: tree{}, source: parts[0].source, config: "upstream_kernel=1\n"} // it names device trees as Linux does
	for _, f := range files.names() {
		switch {
		case strings.HasPrefix(f, "/boot/vmlinuz-"):
			k.version, k.image = strings.TrimPrefix(f, "/boot/vmlinuz-"), files[f].data
		case path.Ext(f) == ".dtb":
			k.dtbs.file(path.Base(f), files[f].data)
		case path.Base(f) == "copyright":
			k.licence = files[f].data
		}
	}
	if k.image == nil || len(k.licence) == 0 {
		return nil, fmt.Errorf("package %s: no kernel in it, or no licence", parts[0].name)
	}
	k.modules, k.boot, k.more = newKernelModules(files, k.version), debianBoot, debianMore
	return k, nil
}

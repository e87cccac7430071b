package boot

import (
	"slices"
	"strings"
	"testing"
)

// As depmod writes them for the kernel of the image and for another one, cut down.
const (
	depText = `kernel/drivers/net/wireless/broadcom/brcm80211/brcmutil/brcmutil.ko:
kernel/drivers/net/wireless/broadcom/brcm80211/brcmfmac/brcmfmac.ko: kernel/drivers/net/wireless/broadcom/brcm80211/brcmutil/brcmutil.ko
kernel/drivers/net/wireless/broadcom/brcm80211/brcmfmac/wcc/brcmfmac-wcc.ko: kernel/drivers/net/wireless/broadcom/brcm80211/brcmfmac/brcmfmac.ko kernel/drivers/net/wireless/broadcom/brcm80211/brcmutil/brcmutil.ko
kernel/net/mac80211/mac80211.ko.xz: kernel/net/wireless/cfg80211.ko.xz kernel/net/rfkill/rfkill.ko.xz
kernel/net/wireless/cfg80211.ko.xz: kernel/net/rfkill/rfkill.ko.xz
kernel/net/rfkill/rfkill.ko.xz:
kernel/drivers/net/wireless/virtual/mac80211_hwsim.ko.xz: kernel/net/mac80211/mac80211.ko.xz kernel/net/wireless/cfg80211.ko.xz kernel/net/rfkill/rfkill.ko.xz
kernel/fs/ext4/ext4.ko: kernel/lib/crc16.ko
kernel/lib/crc16.ko:
kernel/crypto/crc32c_generic.ko:
kernel/crypto/ccm.ko:
a/one.ko: a/two.ko
a/two.ko: a/one.ko
no colon here
`
	aliasText = `# Aliases extracted from modules themselves.
alias sdio:c*v02D0dA9A6* brcmfmac
alias usb:v0A5CpBD1Ed*dc*dsc*dp*ic*isc*ip*in* brcmfmac
alias fs-ext4 ext4
alias of:N*T*Cbrcm,bcm4329-fmac brcmfmac
alias of:N*T*Cbrcm,bcm4329-fmacC* brcmfmac
alias virtio:d00000001v* virtio_net
alias bad [x
`
	softText = `# Soft dependencies extracted from modules themselves.
softdep ext4 pre: crc32c_generic
softdep mac80211 pre: rfkill post: ccm
softdep short
`
)

func TestModules(t *testing.T) {
	m := parseModules([]byte(depText), []byte(aliasText), []byte(softText))
	for _, c := range []struct{ name, want string }{
		{"brcmfmac", "brcmutil brcmfmac"},
		{"brcmfmac-wcc", "brcmutil brcmfmac brcmfmac_wcc"}, // as the kernel's request_module has it
		{"mac80211_hwsim", "rfkill cfg80211 mac80211 ccm mac80211_hwsim"},
		{"sdio:c07v02D0dA9A6", "brcmutil brcmfmac"},
		{"usb:v0A5CpBD1Ed0001dc00dsc00dp00icFFisc01ip01in00", "brcmutil brcmfmac"},
		{"of:NwifiT(null)Cbrcm,bcm4329-fmac", "brcmutil brcmfmac"},
		{"fs-ext4", "crc32c_generic crc16 ext4"},
		{"one", "two one"}, // a circle, which depmod would not write
		{"virtio:d00000001v00001AF4", ""},
		{"fs-nosuchfs", ""},
		{"", ""},
		{"../../../tmp/evil", ""},
		{"/tmp/evil.ko", ""},
		{strings.Repeat("x", maxModuleName+1), ""},
	} {
		var got []string
		for _, n := range m.resolve(c.name) {
			got = append(got, m.order(n)...)
		}
		if strings.Join(got, " ") != c.want {
			t.Errorf("%s: %v, want %s", c.name, got, c.want)
		}
	}
}

func TestChainOfModulesIsBounded(t *testing.T) {
	var dep strings.Builder
	for i := range 3 * maxModules {
		dep.WriteString("m" + strings.Repeat("x", i) + ".ko: m" + strings.Repeat("x", i+1) + ".ko\n")
	}
	if n := len(parseModules([]byte(dep.String()), nil, nil).order("m")); n > maxModules {
		t.Errorf("%d modules for one", n)
	}
}

func TestParameters(t *testing.T) {
	const cmdline = "console=ttyAMA0 mac80211-hwsim.radios=3 mac80211_hwsim.channels=2 quiet fieldkit.watchdog=1 fieldkit.watchdog=0 a. .b\n"
	if got := parameters(cmdline, "mac80211_hwsim"); got != "radios=3 channels=2" {
		t.Errorf("%q", got)
	}
	if got := parameters(cmdline, "brcmfmac"); got != "" {
		t.Errorf("%q", got)
	}
	if got := option(cmdline, "watchdog"); got != "0" {
		t.Errorf("%q", got)
	}
	if got := option("", "watchdog"); got != "" {
		t.Errorf("%q", got)
	}
}

func TestUevents(t *testing.T) {
	const usb = "usb:v0BDAp8153d3000dc00dsc00dp00icFFiscFFip00in00"
	for _, c := range []struct{ event, want string }{
		{"add@/devices/x\x00ACTION=add\x00MODALIAS=" + usb + "\x00SEQNUM=1\x00", usb},
		{"remove@/devices/x\x00ACTION=remove\x00MODALIAS=" + usb + "\x00", ""},
		{"add@/devices/x\x00ACTION=add\x00", ""},
		{"add@/devices/x\x00MODALIAS=" + strings.Repeat("x", maxModuleName+1), ""},
		{"libudev\x00\xfe\xed", ""},
		{"", ""},
	} {
		if got := parseUevent([]byte(c.event)); got != c.want {
			t.Errorf("%q: %q", c.event, got)
		}
	}
}

func FuzzModules(f *testing.F) {
	f.Add([]byte(depText), []byte(aliasText), []byte(softText), "brcmfmac-wcc")
	f.Add([]byte("a.ko: a.ko\n:\n"), []byte("alias * a"), []byte("softdep a pre: a post: a"), "a")
	f.Fuzz(func(t *testing.T, dep, aliases, soft []byte, name string) {
		m := parseModules(dep, aliases, soft)
		for _, n := range m.resolve(name) {
			order := m.order(n)
			if !slices.Contains(order, n) || len(order) > maxModules {
				t.Errorf("%q: %v", n, order)
			}
			for _, o := range order {
				if m.files[o] == "" {
					t.Errorf("%q is no module", o)
				}
			}
		}
	})
}

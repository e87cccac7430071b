package boot

import (
	"errors"
	"slices"
	"strings"
	"syscall"
	"testing"
)

// disk answers as it was told and notes what was done to it.
type disk struct {
	checks [2]int  // exit status of e2fsck -p and -y; -1 does not run
	mounts []error // of one mount after the other; the last one stays
	format error
	did    []string
}

func (d *disk) check(all bool) (int, string, error) {
	i := 0
	if all {
		i = 1
	}
	d.did = append(d.did, [2]string{"e2fsck -p", "e2fsck -y"}[i])
	if d.checks[i] < 0 {
		return 0, "", syscall.ENOENT
	}
	return d.checks[i], "first\nlast words", nil
}

func (d *disk) mount() error {
	d.did = append(d.did, "mount")
	if len(d.mounts) == 0 {
		return nil
	}
	err := d.mounts[0]
	if len(d.mounts) > 1 {
		d.mounts = d.mounts[1:]
	}
	return err
}

type formattable struct{ *disk }

func (d formattable) format() error {
	d.did = append(d.did, "mke2fs")
	return d.disk.format
}

func TestStatePartition(t *testing.T) {
	damaged, gone := error(syscall.EUCLEAN), error(syscall.EIO)
	for _, c := range []struct {
		name string
		disk disk
		want permState
		did  string
	}{
		{"clean", disk{}, permKept, "e2fsck -p, mount"},
		{"journal replayed, errors corrected", disk{checks: [2]int{1, 0}}, permKept, "e2fsck -p, mount"},
		{"corrected, reboot advised: it was not mounted", disk{checks: [2]int{3, 0}}, permKept, "e2fsck -p, mount"},
		{"needs a repair by force", disk{checks: [2]int{4, 1}}, permMended, "e2fsck -p, e2fsck -y, mount"},
		{"beyond repair", disk{checks: [2]int{4, 4}}, permMade, "e2fsck -p, e2fsck -y, mke2fs, mount"},
		{"no superblock", disk{checks: [2]int{8, 8}, mounts: []error{syscall.EINVAL, syscall.EINVAL, nil}}, permMade, "e2fsck -p, mount, e2fsck -y, mount, mke2fs, mount"},
		{"e2fsck does not see what the kernel sees", disk{mounts: []error{damaged, damaged, nil}}, permMade, "e2fsck -p, mount, e2fsck -y, mount, mke2fs, mount"},
		{"the second mount works", disk{mounts: []error{damaged, nil}}, permMended, "e2fsck -p, mount, e2fsck -y, mount"},
		{"e2fsck complains of the device, the kernel mounts it", disk{checks: [2]int{8, 0}}, permKept, "e2fsck -p, mount"},
		{"no e2fsck", disk{checks: [2]int{-1, -1}}, permKept, "e2fsck -p, mount"},
		// What is not damaged is never formatted.
		{"a card that does not answer now", disk{mounts: []error{gone}}, permNone, "e2fsck -p, mount, e2fsck -y, mount"},
		{"no e2fsck and a card that does not answer", disk{checks: [2]int{-1, -1}, mounts: []error{gone}}, permNone, "e2fsck -p, mount, e2fsck -y, mount"},
		{"a card that does not read, as e2fsck and the kernel say", disk{checks: [2]int{8, 8}, mounts: []error{gone}}, permNone, "e2fsck -p, mount, e2fsck -y, mount"},
		{"a kernel without ext4", disk{mounts: []error{syscall.ENODEV}}, permNone, "e2fsck -p, mount"},
		{"the card was pulled", disk{checks: [2]int{8, 8}, mounts: []error{syscall.ENXIO}}, permNone, "e2fsck -p, mount"},
		{"write protected", disk{checks: [2]int{4, 4}, format: syscall.EROFS}, permNone, "e2fsck -p, e2fsck -y, mke2fs"},
		{"formatted and still not good", disk{checks: [2]int{4, 4}, mounts: []error{gone}}, permNone, "e2fsck -p, e2fsck -y, mke2fs, mount"},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := preparePerm(formattable{&c.disk})
			if got != c.want {
				t.Errorf("%v, want %v (%v)", got, c.want, err)
			}
			if did := strings.Join(c.disk.did, ", "); did != c.did {
				t.Errorf("did %s, want %s", did, c.did)
			}
			if (got == permMade || got == permNone || got == permMended) && err == nil {
				t.Error("nobody is told why")
			}
		})
	}
}

// Whatever the tools and the kernel answer: nothing is formatted before it was checked by force, nothing is formatted
// twice, and what was mounted is left alone.
func TestStatePartitionAlways(t *testing.T) {
	statuses := []int{-1, 0, 1, 2, 4, 5, 8, 16, 32, 128}
	errnos := []error{nil, syscall.EINVAL, syscall.EUCLEAN, syscall.EIO, syscall.ENODEV, syscall.EROFS, errors.New("other")}
	for _, p := range statuses {
		for _, y := range statuses {
			for _, first := range errnos {
				for _, second := range errnos {
					for _, third := range errnos {
						d := &disk{checks: [2]int{p, y}, mounts: []error{first, second, third}}
						state, _ := preparePerm(formattable{d})
						made := slices.Index(d.did, "mke2fs")
						if made >= 0 && !slices.Contains(d.did[:made], "e2fsck -y") {
							t.Fatalf("%v %v %v: %v", p, y, first, d.did)
						}
						if last := d.did[len(d.did)-1]; state != permNone && last != "mount" {
							t.Fatalf("state %v after %v", state, d.did)
						}
						if state == permKept && made >= 0 || state == permMade && made < 0 {
							t.Fatalf("state %v after %v", state, d.did)
						}
						if len(d.did) > 7 {
							t.Fatalf("did %v", d.did)
						}
					}
				}
			}
		}
	}
}

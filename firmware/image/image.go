// Package image builds the image of a kit's memory card, makes cards of a mission out of it and writes it to a card.
//
// Build puts kernel, boot files, the daemon and a handful of Debian's programs together, without root, mounts or loop
// devices, and comes to the same bytes whoever runs it, wherever and whenever. Personalise makes copies of an image for
// the kits of one mission, Flash writes one to a card and reads it back. What is where on a card is package card's.
//
// It belongs to the operator's tool and to tests; nothing of it runs on a kit. Functions may be called by any
// goroutine; two builds at a time need different output directories.
package image

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"golang.org/x/sync/errgroup"

	"fieldkit/firmware/card"
)

// Options are what an image is built of.
type Options struct {
	Source string    // the project's tree
	Out    string    // directory of what is built
	Cache  string    // directory of what is fetched
	Kernel string    // KernelPi, KernelDebian, or a directory like that of KernelPi's module
	Log    io.Writer // what is being done; nil discards it
}

// Kernels that Options.Kernel may name.
const (
	// KernelPi is the Raspberry Pi kernel, for the boards 3 to 5. It alone can try a slot once.
	KernelPi = "rpi"
	// KernelDebian has mac80211, mesh and simulated radios, and boots the boards 3 and 4. It is for tests and for a
	// radio mesh.
	KernelDebian = "debian"
)

// Files of Options.Out beside the image. They are what an emulator starts without the boards' own firmware: the kernel
// not compressed, the rest as in the slot.
const (
	ImageFile  = "card.img"
	KernelFile = "kernel"
	InitrdFile = card.InitrdFile
	DTBDir     = "dtb" // device trees, by the names that the boards' firmware looks for
)

// Result is what was built.
type Result struct {
	Image   string // path
	Size    int64  // bytes
	Used    int64  // bytes of the slot in use
	SHA256  string // of the image, hexadecimal
	Release card.Release
	Files   []FileSize // what takes the room
	Parts   []string   // components, one a line, as in packages.txt
	Took    time.Duration
}

// FileSize is a file of the slot and its size in bytes.
type FileSize struct {
	Name string
	Size int64
}

type builder struct {
	o    Options
	work string
	time time.Time
	log  io.Writer
}

func (b *builder) say(format string, args ...any) { _, _ = fmt.Fprintf(b.log, format, args...) }

// Build builds an image and what belongs to it into o.Out.
func Build(ctx context.Context, o Options) (_ *Result, err error) {
	start := time.Now()
	b := &builder{o: o, log: o.Log}
	if b.log == nil {
		b.log = io.Discard
	}
	if err := os.MkdirAll(o.Out, 0o755); err != nil {
		return nil, err
	}
	// In the output directory, because /tmp may be too small, and renaming what is finished must not copy.
	if b.work, err = os.MkdirTemp(o.Out, "work-"); err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(b.work)) }()

	in, err := b.gather(ctx)
	if err != nil {
		return nil, err
	}
	slot, lines, err := b.slot(ctx, in)
	if err != nil {
		return nil, err
	}
	first, err := firstPartition(in.boot)
	if err != nil {
		return nil, err
	}
	img := filepath.Join(b.work, ImageFile)
	if err := b.image(ctx, img, first, slot); err != nil {
		return nil, err
	}
	r := &Result{Image: filepath.Join(o.Out, ImageFile), Release: in.release, Size: card.Size, Parts: lines}
	if r.SHA256, r.Used, err = inspect(img); err != nil {
		return nil, err
	}
	for _, f := range []string{card.KernelFile, card.InitrdFile} {
		r.Files = append(r.Files, FileSize{f, int64(len(slot[clean(f)].data))})
	}
	if err := b.publish(img, in.kernel, slot); err != nil {
		return nil, err
	}
	r.Took = time.Since(start)
	return r, nil
}

// inputs are what an image is made of.
type inputs struct {
	release    card.Release
	kernel     *kernel
	compressed []byte // the kernel, as the boards' firmware loads it
	daemon     []byte
	boot       string      // directory of the boards' firmware
	debian     tree        // Debian's packages
	packages   []component // which these are
}

// gather fetches and builds the inputs, as far as they do not wait for each other at the same time.
func (b *builder) gather(ctx context.Context) (*inputs, error) {
	lock, err := parseLock(lockFile)
	if err != nil {
		return nil, err
	}
	in := &inputs{}
	if in.kernel, err = b.kernel(ctx, lock); err != nil {
		return nil, fmt.Errorf("kernel: %w", err)
	}
	if in.boot, err = downloadModule(ctx, bootModule, bootVersion, bootSum); err != nil {
		return nil, err
	}
	if in.release, err = b.release(ctx, in.kernel); err != nil {
		return nil, err
	}
	b.time = in.release.Time
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() (err error) { in.daemon, err = b.daemon(ctx, in.release.Version); return err })
	g.Go(func() (err error) { in.compressed, err = gzipped(in.kernel.image); return err })
	g.Go(func() (err error) {
		d := debs{dir: filepath.Join(b.o.Cache, "debs"), list: bySet(lock, systemSet)}
		if err := d.fetch(ctx, b.say); err != nil {
			return err
		}
		in.debian, in.packages, err = d.unpack(ctx, systemSet, func(string) bool { return true })
		return err
	})
	return in, g.Wait()
}

// slot makes the files of a slot, and the lines of packages.txt among them.
func (b *builder) slot(ctx context.Context, in *inputs) (slot tree, lines []string, err error) {
	release, err := in.release.Encode()
	if err != nil {
		return nil, nil, err
	}
	system, err := b.system(in.debian, in.kernel, in.daemon, release)
	if err != nil {
		return nil, nil, err
	}
	initrd, err := system.initrd()
	if err != nil {
		return nil, nil, err
	}
	papers, err := b.papers(ctx, in)
	if err != nil {
		return nil, nil, err
	}
	lines = papers.list(in.release)

	slot = tree{}
	slot.file(card.KernelFile, in.compressed)
	slot.file(card.InitrdFile, initrd)
	slot.file(card.ReleaseFile, release)
	slot.file(card.ConfigFile, []byte(slotConfig+in.kernel.config))
	slot.file(card.CmdlineFile, []byte(cmdline))
	slot.file(card.PackagesFile, []byte(strings.Join(lines, "\n")+"\n"))
	for _, name := range in.kernel.dtbs.names() {
		slot[name] = in.kernel.dtbs[name]
	}
	for name, n := range papers.files {
		slot[clean(path.Join(card.LicensesDir, name))] = n
	}
	return slot, lines, slot.bootFiles(in.boot, slotBoot)
}

// firstPartition makes the files of the boot partition; boot is the directory of the boards' firmware.
func firstPartition(boot string) (tree, error) {
	t := tree{}
	auto, err := card.AutobootFor(card.A).Render()
	if err != nil {
		return nil, err
	}
	t.file(card.AutobootFile, auto[:])
	t.file(card.ConfigFile, []byte(bootConfig))
	t.file(card.KitFile, []byte(KitTemplate))
	return t, t.bootFiles(boot, partitionBoot)
}

// image makes the four partitions and puts them together.
func (b *builder) image(ctx context.Context, out string, first, slot tree) error {
	parts := map[int]string{}
	var err error
	for _, p := range []struct {
		part  card.Partition
		files tree
	}{{card.Boot, first}, {card.SlotA, slot}, {card.SlotB, tree{}}} {
		if parts[p.part.Number], err = b.makeFAT(ctx, p.part, p.files); err != nil {
			return err
		}
	}
	if parts[card.Perm.Number], err = b.makePerm(ctx); err != nil {
		return err
	}
	return assemble(out, parts)
}

// inspect reads an image as a kit and an update will: partition table, committed slot and release must be readable.
func inspect(img string) (sum string, used int64, err error) {
	f, err := os.Open(img)
	if err != nil {
		return "", 0, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	s, err := card.Committed(f)
	if err != nil {
		return "", 0, err
	}
	m, err := card.ManifestOf(f, s)
	if err != nil {
		return "", 0, err
	}
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return "", 0, err
	}
	return hex.EncodeToString(h.Sum(nil)), m.Size, nil
}

// publish replaces what is in the output directory, each file whole.
func (b *builder) publish(img string, k *kernel, slot tree) error {
	put := func(name string, data []byte) error {
		at := filepath.Join(b.work, "publish")
		if err := writeFile(at, data, 0o644); err != nil {
			return err
		}
		return os.Rename(at, filepath.Join(b.o.Out, name))
	}
	err := errors.Join(os.RemoveAll(filepath.Join(b.o.Out, DTBDir)), os.MkdirAll(filepath.Join(b.o.Out, DTBDir), 0o755), put(KernelFile, k.image))
	for _, name := range []string{card.InitrdFile, card.ReleaseFile, card.PackagesFile} {
		err = errors.Join(err, put(name, slot[clean(name)].data))
	}
	for _, name := range k.dtbs.names() {
		if path.Dir(name) == "/" {
			err = errors.Join(err, put(filepath.Join(DTBDir, path.Base(name)), k.dtbs[name].data))
		}
	}
	return errors.Join(err, os.Rename(img, filepath.Join(b.o.Out, ImageFile)))
}

// initrd is the tree as the kernel unpacks it.
func (t tree) initrd() ([]byte, error) {
	var out bytes.Buffer
	// One thread: the blocks of more would differ from run to run. The kernel unpacks it in one go into memory.
	z, err := zstd.NewWriter(&out, zstd.WithEncoderLevel(zstd.SpeedBetterCompression), zstd.WithEncoderConcurrency(1), zstd.WithWindowSize(8<<20))
	if err != nil {
		return nil, err
	}
	if err := errors.Join(t.writeCPIO(z), z.Close()); err != nil {
		return nil, fmt.Errorf("initial file system: %w", err)
	}
	return out.Bytes(), nil
}

// gzipped is the only compression of a kernel that the boards' firmware undoes.
func gzipped(b []byte) ([]byte, error) {
	var out bytes.Buffer
	z, err := gzip.NewWriterLevel(&out, 8) // 9 takes three times as long for a thousandth less
	if err != nil {
		return nil, err
	}
	_, err = z.Write(b)
	err = errors.Join(err, z.Close()) // which writes the end of it
	return out.Bytes(), err
}

func bySet(list []debPackage, set string) (r []debPackage) {
	for _, p := range list {
		if p.set == set {
			r = append(r, p)
		}
	}
	return r
}

// Report tells what was built.
func (r *Result) Report(w io.Writer) error {
	var b bytes.Buffer
	for _, l := range r.Parts {
		fmt.Fprintln(&b, l)
	}
	mb := func(n int64) string { return fmt.Sprintf("%.1f MB", float64(n)/1e6) }
	fmt.Fprintf(&b, "\n%s\n", r.Image)
	t := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	fmt.Fprintf(t, "  version\t%s, kernel %s (%s)\n", r.Release.Version, r.Release.Kernel, r.Release.Flavour)
	fmt.Fprintf(t, "  size\t%s; a card of 512 MB is enough\n", mb(r.Size))
	fmt.Fprintf(t, "  system\t%s of %s", mb(r.Used), mb(card.SlotA.Size))
	for _, f := range r.Files {
		fmt.Fprintf(t, ", %s %s", f.Name, mb(f.Size))
	}
	fmt.Fprintf(t, "\n  sha256\t%s\n", r.SHA256)
	fmt.Fprintf(t, "  took\t%.1f s\n", r.Took.Seconds())
	_ = t.Flush() // into memory
	_, err := w.Write(b.Bytes())
	return err
}

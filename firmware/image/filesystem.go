package image

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"strconv"

	"fieldkit/firmware/card"
)

// makeFAT makes a FAT32 file system with the files of a tree: mkfs.fat and mcopy do it, on a file, and go through the
// same steps in the same order whoever runs them.
func (b *builder) makeFAT(ctx context.Context, p card.Partition, files tree) (string, error) {
	img := filepath.Join(b.work, p.Label)
	if _, err := run(ctx, b.env(), "mkfs.fat", "--invariant", "-F", "32", "-n", p.Label, "-i", fmt.Sprintf("%08x", p.Volume), "-C", img, strconv.FormatInt(p.Size/1024, 10)); err != nil {
		return "", fmt.Errorf("partition %s: %w", p.Label, err)
	}
	// mcopy copies times and the right to write from the files that it is given.
	stage := filepath.Join(b.work, p.Label+".files")
	if err := os.Mkdir(stage, 0o755); err != nil {
		return "", err
	}
	put := func(name string, what func(at string) error) error {
		at := filepath.Join(stage, strconv.Itoa(len(name)), path.Base(name)) // a place of its own is enough
		if err := os.MkdirAll(filepath.Dir(at), 0o755); err != nil {
			return err
		}
		defer os.RemoveAll(filepath.Dir(at))
		if err := what(at); err != nil {
			return err
		}
		if err := os.Chtimes(at, b.time, b.time); err != nil {
			return err
		}
		_, err := run(ctx, b.env(), "mcopy", "-s", "-Q", "-m", "-i", img, at, "::"+path.Dir(name))
		return err
	}
	for _, d := range files.dirs() {
		if err := put(d, func(at string) error { return os.Mkdir(at, 0o755) }); err != nil {
			return "", fmt.Errorf("partition %s: directory %s: %w", p.Label, d, err)
		}
	}
	for _, f := range files.names() {
		if err := put(f, func(at string) error { return writeFile(at, files[f].data, 0o644) }); err != nil {
			return "", fmt.Errorf("partition %s: file %s: %w", p.Label, f, err)
		}
	}
	return img, os.RemoveAll(stage)
}

// writeFile is os.WriteFile with modes that do not depend on the umask.
func writeFile(name string, b []byte, mode os.FileMode) error {
	if err := os.WriteFile(name, b, mode); err != nil {
		return err
	}
	return os.Chmod(name, mode)
}

// ext4Features are given one by one: the defaults change with the version of e2fsprogs and with the mke2fs.conf of the
// machine, and the e2fsck on the card must know them all.
const ext4Features = "none,has_journal,ext_attr,resize_inode,dir_index,filetype,extent,64bit,flex_bg,sparse_super,large_file,huge_file,dir_nlink,extra_isize,metadata_csum"

// makePerm makes the file system of the kit's state, with nothing in it.
func (b *builder) makePerm(ctx context.Context) (string, error) {
	img := filepath.Join(b.work, card.Perm.Label)
	const uuid = "4b495430-0000-4000-8000-00004b495450"
	conf := filepath.Join(b.work, "mke2fs.conf")
	if err := writeFile(conf, []byte("[fs_types]\next4 = {\nfeatures = extent\n}\n"), 0o644); err != nil {
		return "", err
	}
	_, err := run(ctx, append(b.env(), "MKE2FS_CONFIG="+conf), "mke2fs", "-q", "-t", "ext4", "-L", card.Perm.Label, "-U", uuid,
		"-b", "4096", "-I", "256", "-N", "4096", "-m", "0", "-J", "size=4", "-O", ext4Features,
		"-E", "hash_seed="+uuid+",lazy_itable_init=0,lazy_journal_init=0,root_owner=0:0", img, strconv.FormatInt(card.Perm.Size/1024, 10)+"k")
	if err != nil {
		return "", fmt.Errorf("partition %s: %w", card.Perm.Label, err)
	}
	return img, nil
}

// env makes the time in what the tools write that of the source.
func (b *builder) env() []string {
	t := strconv.FormatInt(b.time.Unix(), 10)
	return []string{"SOURCE_DATE_EPOCH=" + t, "E2FSPROGS_FAKE_TIME=" + t, "MTOOLSRC=/dev/null", "MTOOLS_SKIP_CHECK=1"}
}

// assemble puts partition table and partitions into one sparse file.
func assemble(out string, parts map[int]string) (err error) {
	f, err := os.Create(out)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	if err := f.Chmod(0o644); err != nil {
		return err
	}
	if err := f.Truncate(card.Size); err != nil {
		return err
	}
	mbr := card.EncodeMBR()
	if _, err := f.WriteAt(mbr[:], 0); err != nil {
		return err
	}
	for _, p := range card.Partitions() {
		if err := copyFile(f, p.Offset, parts[p.Number], p.Size); err != nil {
			return fmt.Errorf("partition %s: %w", p.Label, err)
		}
	}
	return nil
}

func copyFile(out io.WriterAt, at int64, src string, size int64) (err error) {
	in, err := os.Open(src)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, in.Close()) }()
	return copySparse(out, at, in, size)
}

// copySparse copies exactly size bytes to a place in a file, leaving holes where there are only zeros. out must be zero
// there.
func copySparse(out io.WriterAt, at int64, in io.Reader, size int64) error {
	b, zero := make([]byte, 1<<20), make([]byte, 4096)
	for done := int64(0); ; {
		n, err := io.ReadFull(in, b)
		for i := 0; i < n; i += len(zero) {
			if part := b[i:min(i+len(zero), n)]; !bytes.Equal(part, zero[:len(part)]) {
				if _, err := out.WriteAt(part, at+done+int64(i)); err != nil {
					return err
				}
			}
		}
		done += int64(n)
		switch ended := errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF); {
		case err != nil && !ended:
			return err
		case done > size || ended && done != size:
			return fmt.Errorf("%d bytes or more: want %d", done, size)
		case ended:
			return nil
		}
	}
}

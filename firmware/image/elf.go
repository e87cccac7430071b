package image

import (
	"bytes"
	"debug/elf"
	"fmt"
	"path"
)

// libraryDirs are where the dynamic linker of an arm64 Debian looks.
var libraryDirs = []string{"/lib/aarch64-linux-gnu", "/usr/lib/aarch64-linux-gnu", "/lib", "/usr/lib"}

// addProgram copies a program and all that it needs to run from one tree to another: its interpreter and libraries, and
// theirs, by what their ELF headers say. Nothing is run.
func (t tree) addProgram(from tree, program string) error {
	todo := []string{clean(program)}
	for len(todo) > 0 {
		name := todo[0]
		todo = todo[1:]
		if _, ok := t[name]; ok {
			continue
		}
		_, n, err := from.resolve(name)
		if err != nil {
			return fmt.Errorf("program %s: %w", program, err)
		}
		t.program(name, n.data)
		f, err := elf.NewFile(bytes.NewReader(n.data))
		if err != nil {
			return fmt.Errorf("program %s: %s: %w", program, name, err)
		}
		if f.Machine != elf.EM_AARCH64 {
			return fmt.Errorf("program %s: %s is for %v, not for arm64", program, name, f.Machine)
		}
		for _, p := range f.Progs {
			if p.Type == elf.PT_INTERP {
				b := make([]byte, p.Filesz)
				if _, err := p.ReadAt(b, 0); err != nil {
					return fmt.Errorf("program %s: interpreter: %w", program, err)
				}
				todo = append(todo, clean(string(bytes.TrimRight(b, "\x00"))))
			}
		}
		libs, err := f.ImportedLibraries()
		if err != nil {
			return fmt.Errorf("program %s: %s: %w", program, name, err)
		}
		for _, lib := range libs {
			at, err := from.library(lib)
			if err != nil {
				return fmt.Errorf("program %s: %s needs %s, which no package of %s has: name the package there and run scripts/image-lock", program, name, lib, lockName)
			}
			todo = append(todo, at)
		}
	}
	return nil
}

func (t tree) library(name string) (string, error) {
	var last error
	for _, d := range libraryDirs {
		at := path.Join(d, name)
		_, _, err := t.resolve(at)
		if err == nil {
			return at, nil
		}
		last = err
	}
	return "", last
}

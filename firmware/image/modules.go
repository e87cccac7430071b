package image

import (
	"bytes"
	"debug/elf"
	"fmt"
	"path"
	"slices"
	"strings"

	"fieldkit/firmware/card"
)

// kernelModules are the loadable parts of a kernel, as its package has them below /lib/modules/VERSION.
type kernelModules struct {
	files   tree
	dir     string // /lib/modules/VERSION
	byName  map[string]string
	builtin map[string]bool
	info    map[string]moduleInfo // of those that were looked at, by path
	under   map[string]bool       // those whose closure is being found
}

type moduleInfo struct {
	depends []string
	aliases []string
	softdep []string // as it is written
	pre     []string // what it names there
	post    []string
}

func newKernelModules(files tree, version string) *kernelModules {
	k := &kernelModules{files: files, dir: path.Join("/lib/modules", version), byName: map[string]string{}, builtin: map[string]bool{}, info: map[string]moduleInfo{}, under: map[string]bool{}}
	for _, f := range files.below(k.dir) {
		if strings.HasSuffix(f, ".ko") {
			k.byName[moduleName(f)] = f
		}
	}
	for line := range bytes.Lines(files[path.Join(k.dir, "modules.builtin")].data) {
		k.builtin[moduleName(strings.TrimSpace(string(line)))] = true
	}
	return k
}

// moduleName is how the kernel calls a module: with underscores, wherever its file has hyphens.
func moduleName(file string) string {
	return strings.ReplaceAll(strings.TrimSuffix(path.Base(file), ".ko"), "-", "_")
}

// read reads what a module says of itself, in the section .modinfo: NUL-terminated strings KEY=VALUE.
func (k *kernelModules) read(file string) (moduleInfo, error) {
	if i, ok := k.info[file]; ok {
		return i, nil
	}
	var i moduleInfo
	f, err := elf.NewFile(bytes.NewReader(k.files[file].data))
	if err != nil {
		return i, fmt.Errorf("module %s: %w", file, err)
	}
	section := f.Section(".modinfo")
	if section == nil {
		return i, fmt.Errorf("module %s: no section .modinfo", file)
	}
	b, err := section.Data()
	if err != nil {
		return i, fmt.Errorf("module %s: %w", file, err)
	}
	for s := range strings.SplitSeq(string(b), "\x00") {
		switch key, value, _ := strings.Cut(s, "="); key {
		case "depends":
			i.depends = append(i.depends, strings.FieldsFunc(value, func(r rune) bool { return r == ',' })...)
		case "softdep":
			i.softdep = append(i.softdep, value)
			before, after, _ := strings.Cut(value, "post:")
			i.pre = append(i.pre, strings.Fields(strings.TrimPrefix(before, "pre:"))...)
			i.post = append(i.post, strings.Fields(after)...)
		case "alias":
			i.aliases = append(i.aliases, value)
		}
	}
	k.info[file] = i
	return i, nil
}

// closure appends to order the file of the module, before it those of all that it needs, and with soft around it what
// it would like to have, if the kernel has that. What is built into the kernel needs no file.
func (k *kernelModules) closure(order []string, name string, soft bool) ([]string, error) {
	name = strings.ReplaceAll(name, "-", "_")
	file, ok := k.byName[name]
	switch {
	case !ok && k.builtin[name]:
		return order, nil
	case !ok:
		return nil, fmt.Errorf("kernel %s has no module %s", path.Base(k.dir), name)
	case k.under[file] || slices.Contains(order, file):
		return order, nil
	}
	i, err := k.read(file)
	if err != nil {
		return nil, err
	}
	k.under[file] = true // two modules may like each other
	defer delete(k.under, file)
	wish := func(names []string) {
		for _, d := range names {
			if more, err := k.closure(order, d, soft); soft && err == nil {
				order = more
			}
		}
	}
	wish(i.pre)
	for _, d := range i.depends {
		if order, err = k.closure(order, d, soft); err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
	}
	order = append(order, file)
	wish(i.post)
	return order, nil
}

// add puts the modules, with what they need, into the system: those of boot are loaded at boot, in the order of
// load.order, the others when somebody asks for them. modules.dep and modules.alias are the kernel's own formats
// (modules.dep(5), depmod.d(5)), with these modules alone; a module's line names what it needs, to be loaded from the
// last to the first, and modules.softdep what it would like to have.
func (k *kernelModules) add(system tree, boot, more []string) error {
	var order []string
	var err error
	for _, m := range boot {
		if order, err = k.closure(order, m, true); err != nil {
			return err
		}
	}
	relative := func(file string) string { return strings.TrimPrefix(file, k.dir+"/") }
	var load, dep, alias, soft bytes.Buffer
	for _, f := range order {
		fmt.Fprintln(&load, relative(f))
	}
	for _, m := range more {
		if order, err = k.closure(order, m, true); err != nil {
			return err
		}
	}
	for _, f := range slices.Sorted(slices.Values(order)) {
		system.file(f, k.files[f].data)
		needs, err := k.closure(nil, moduleName(f), false)
		if err != nil {
			return err
		}
		needs = needs[:len(needs)-1]
		slices.Reverse(needs)
		fmt.Fprintf(&dep, "%s:", relative(f))
		for _, n := range needs {
			fmt.Fprintf(&dep, " %s", relative(n))
		}
		fmt.Fprintln(&dep)
		for _, a := range k.info[f].aliases {
			fmt.Fprintf(&alias, "alias %s %s\n", a, moduleName(f))
		}
		for _, s := range k.info[f].softdep {
			fmt.Fprintf(&soft, "softdep %s %s\n", moduleName(f), s)
		}
	}
	system.file(path.Join(k.dir, card.LoadOrderFile), load.Bytes())
	system.file(path.Join(k.dir, "modules.dep"), dep.Bytes())
	system.file(path.Join(k.dir, "modules.alias"), alias.Bytes())
	system.file(path.Join(k.dir, "modules.softdep"), soft.Bytes())
	system.file(path.Join(k.dir, "modules.builtin"), k.files[path.Join(k.dir, "modules.builtin")].data)
	return nil
}

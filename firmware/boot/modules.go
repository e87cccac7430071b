package boot

import (
	"bytes"
	"path"
	"slices"
	"strings"
)

// Bounds of what is read and loaded.
const (
	maxModuleFile = 8 << 20 // bytes of modules.alias and its like
	maxModules    = 128     // loaded for one name
	maxModuleName = 256     // bytes of a name or of an alias
)

// modules knows the drivers of the image: which files there are, what they need, and which device wants which.
type modules struct {
	files   map[string]string   // path below the modules' directory, by name
	needs   map[string][]string // names, in the order in which they are loaded
	pre     map[string][]string // of modules.softdep
	post    map[string][]string
	aliases map[string][]alias // by what stands before the first colon
}

type alias struct{ pattern, name string }

// moduleName is the name of a module by its file: kernel/drivers/x/foo-bar.ko.xz is foo_bar. The kernel takes a hyphen
// for an underscore.
func moduleName(file string) string {
	name, _, _ := strings.Cut(path.Base(file), ".ko")
	return strings.ReplaceAll(name, "-", "_")
}

// parseModules reads modules.dep, modules.alias and modules.softdep as depmod writes them. What it does not understand
// it leaves out.
func parseModules(dep, aliases, soft []byte) *modules {
	m := &modules{
		files: map[string]string{}, needs: map[string][]string{}, pre: map[string][]string{}, post: map[string][]string{},
		aliases: map[string][]alias{},
	}
	for line := range bytes.Lines(dep) {
		file, needs, ok := strings.Cut(strings.TrimSpace(string(line)), ":")
		if !ok || file == "" || strings.HasPrefix(file, "#") {
			continue
		}
		name := moduleName(file)
		m.files[name] = file
		for _, n := range slices.Backward(strings.Fields(needs)) { // depmod puts last what comes first
			m.needs[name] = append(m.needs[name], moduleName(n))
		}
	}
	for line := range bytes.Lines(aliases) {
		f := strings.Fields(string(line))
		if len(f) == 3 && f[0] == "alias" {
			bus, _, _ := strings.Cut(f[1], ":")
			m.aliases[bus] = append(m.aliases[bus], alias{f[1], moduleName(f[2])})
		}
	}
	for line := range bytes.Lines(soft) {
		f := strings.Fields(string(line))
		if len(f) < 3 || f[0] != "softdep" {
			continue
		}
		name, into := moduleName(f[1]), m.pre
		for _, word := range f[2:] {
			switch word {
			case "pre:":
				into = m.pre
			case "post:":
				into = m.post
			default:
				into[name] = append(into[name], moduleName(word))
			}
		}
	}
	return m
}

// resolve lists the names of the modules that a name or a device's alias stands for; none if the image has none.
func (m *modules) resolve(name string) (r []string) {
	if name == "" || len(name) > maxModuleName {
		return nil
	}
	if n := moduleName(name); m.files[n] != "" {
		return []string{n}
	}
	bus, _, _ := strings.Cut(name, ":")
	for _, a := range m.aliases[bus] {
		if ok, err := path.Match(a.pattern, name); err == nil && ok && m.files[a.name] != "" && !slices.Contains(r, a.name) {
			r = append(r, a.name)
		}
	}
	return r
}

// order lists the modules to load for the one of a name, that one and what comes after it included, each once.
func (m *modules) order(name string) []string {
	var r []string
	seen := map[string]bool{}
	var add func(name string)
	add = func(name string) {
		if seen[name] || m.files[name] == "" || len(seen) >= maxModules {
			return
		}
		seen[name] = true
		for _, n := range m.pre[name] {
			add(n)
		}
		for _, n := range m.needs[name] {
			add(n)
		}
		r = append(r, name)
		for _, n := range m.post[name] {
			add(n)
		}
	}
	add(name)
	return r
}

// parameters are those of a module on the kernel's command line: "mac80211_hwsim.radios=3" is "radios=3" for it.
func parameters(cmdline, name string) string {
	var r []string
	for _, word := range strings.Fields(cmdline) {
		module, rest, ok := strings.Cut(word, ".")
		if ok && moduleName(module) == name && rest != "" {
			r = append(r, rest)
		}
	}
	return strings.Join(r, " ")
}

// parseUevent reads what the kernel says of a device that came: its alias, "" if there is none.
func parseUevent(b []byte) string {
	fields := bytes.Split(b, []byte{0})
	if len(fields) == 0 || !bytes.HasPrefix(fields[0], []byte("add@")) {
		return ""
	}
	for _, f := range fields[1:] {
		if a, ok := bytes.CutPrefix(f, []byte("MODALIAS=")); ok && len(a) <= maxModuleName {
			return string(a)
		}
	}
	return ""
}

// option is the value of fieldkit.NAME= on the kernel's command line.
func option(cmdline, name string) string {
	value := ""
	for _, word := range strings.Fields(cmdline) {
		if v, ok := strings.CutPrefix(word, "fieldkit."+name+"="); ok {
			value = v
		}
	}
	return value
}

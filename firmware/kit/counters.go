package kit

import (
	"reflect"
	"strings"
	"unicode"

	"fieldkit/ui"
)

// counters lists the numbers of a Stats struct under their field names in words, nested structs included,
// so that a counter that a package adds is shown without another line anywhere.
func counters(prefix string, stats any) (r []ui.Counter) {
	v := reflect.ValueOf(stats)
	for i := range v.NumField() {
		f := v.Type().Field(i)
		if !f.IsExported() {
			continue
		}
		name := prefix + words(f.Name)
		switch value := v.Field(i); {
		case value.CanUint():
			r = append(r, ui.Counter{Name: name, Value: value.Uint()})
		case value.CanInt() && value.Int() >= 0:
			r = append(r, ui.Counter{Name: name, Value: uint64(value.Int())})
		case value.Kind() == reflect.Struct:
			r = append(r, counters(name+" ", value.Interface())...)
		}
	}
	return r
}

// words writes "TooLarge" and "too_large" as "too large", and "RTTs" as "rtts".
func words(name string) string {
	var b strings.Builder
	lower := false // the letter before
	for _, c := range name {
		if c == '_' || unicode.IsUpper(c) && lower {
			b.WriteByte(' ')
		}
		if c != '_' {
			b.WriteRune(unicode.ToLower(c))
		}
		lower = unicode.IsLower(c)
	}
	return b.String()
}

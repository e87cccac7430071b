package fieldkit_test

import (
	"os"
	"regexp"
	"strings"
	"testing"
)

const hostileFile = "docs/hostile-peers.md"

// What docs/hostile-peers.md says a lying member can and cannot do is shown by tests: each line of its tables names some, and
// all of them exist.
func TestHostilePeersNamesTestsThatExist(t *testing.T) {
	text, err := os.ReadFile(hostileFile)
	if err != nil {
		t.Fatal(err)
	}
	exists := testsOf(t)
	named := regexp.MustCompile("`([a-z0-9_/]+):((?:Test|Fuzz)\\w*)`")
	lines := 0
	for i, line := range strings.Split(string(text), "\n") {
		tests := named.FindAllStringSubmatch(line, -1)
		for _, m := range tests {
			if !exists(m[1], m[2]) {
				t.Errorf("%s:%d: there is no test %s:%s", hostileFile, i+1, m[1], m[2])
			}
		}
		if strings.HasPrefix(line, "| ") && !strings.HasPrefix(line, "| it |") {
			if lines++; len(tests) == 0 {
				t.Errorf("%s:%d: no test shows that", hostileFile, i+1)
			}
		}
	}
	if lines < 20 {
		t.Errorf("%s: %d lines", hostileFile, lines)
	}
}

package wire

import (
	"encoding/json"
	"errors"
	"go/parser"
	"go/token"
	"os"
	"strconv"
	"strings"
	"testing"
)

func TestNodeID(t *testing.T) {
	for n := range 25 {
		id, err := NodeIDFrom(make([]byte, n))
		if ok := n >= 16 && n <= 20; ok != (err == nil) || ok && (id.Len() != n || id.IsZero() || !id.IsInvalid()) {
			t.Errorf("%d bytes: %v, %v", n, id, err)
		}
		wildcard := WildcardNodeID(n)
		if ok := n >= 16 && n <= 20; ok != wildcard.IsWildcard() || ok == wildcard.IsZero() {
			t.Errorf("wildcard of %d bytes: %v", n, wildcard)
		}
	}
	if s := node1.String(); s != "101112131415161718191a1b1c1d1e1f" {
		t.Errorf("String %s", s)
	}
	if node1.IsWildcard() || node1.IsInvalid() || node1.IsZero() || (NodeID{}).IsWildcard() {
		t.Error("an ordinary Node-ID taken for a special one")
	}
	if node1.Compare(node2) >= 0 || node2.Compare(node1) <= 0 || node1.Compare(node1) != 0 {
		t.Error("order")
	}
	longer := nodeIDOf(append(run(0x10), 0))
	if node1.Compare(longer) >= 0 || node1 == longer {
		t.Error("order by length")
	}
	b := node1.Bytes()
	b[0] = 0xff
	if node1.Bytes()[0] != 0x10 {
		t.Error("Bytes is no copy")
	}
	for _, id := range []NodeID{node1, {}, longer} {
		text, err := json.Marshal(map[NodeID]NodeID{id: id})
		if err != nil {
			t.Fatal(err)
		}
		var back map[NodeID]NodeID
		if err := json.Unmarshal(text, &back); err != nil || back[id] != id {
			t.Errorf("%s: %v, %v", text, back, err)
		}
	}
	for _, s := range []string{"", "1", "zz", strings.Repeat("00", 15), strings.Repeat("00", 21)} {
		if id, err := ParseNodeID(s); !errors.Is(err, ErrMalformed) || !id.IsZero() {
			t.Errorf("%q: %v, %v", s, id, err)
		}
	}
}

// TestHashes: the expected values are those of sha1sum.
func TestHashes(t *testing.T) {
	// 40af900dd4d4436766d8065615dda125 2313372a
	if h := OverlayHash("chat.mission.home.arpa"); h != 0x2313372a {
		t.Errorf("OverlayHash %#x", h)
	}
	for n, want := range map[int]string{
		16: "45a6b241a242c97f0492d382c390dfa3",
		20: "45a6b241a242c97f0492d382c390dfa335aac986",
		21: "45a6b241a242c97f0492d382c390dfa335aac986",
		0:  "",
		-1: "",
	} {
		if r := ResourceIDFor([]byte("alice@example.org"), n); r.String() != want {
			t.Errorf("ResourceIDFor %d bytes: %s", n, r)
		}
	}
}

// TestCodes checks numbers and names against the registries of RFC 6940 §14.8 and §14.9 and of RFC 7851 §9.3 and §9.4.
func TestCodes(t *testing.T) {
	for code, want := range map[MessageCode]string{
		1: "probe_req", 2: "probe_ans", 3: "attach_req", 4: "attach_ans", 7: "store_req", 8: "store_ans",
		9: "fetch_req", 10: "fetch_ans", 13: "find_req", 14: "find_ans", 15: "join_req", 16: "join_ans",
		17: "leave_req", 18: "leave_ans", 19: "update_req", 20: "update_ans", 21: "route_query_req",
		22: "route_query_ans", 23: "ping_req", 24: "ping_ans", 25: "stat_req", 26: "stat_ans",
		29: "app_attach_req", 30: "app_attach_ans", 33: "config_update_req", 34: "config_update_ans",
		0x23: "exp_a_req", 0x24: "exp_a_ans", 0x25: "exp_b_req", 0x26: "exp_b_ans", 0x27: "path_track_req", 0x28: "path_track_ans",
		0xffff: "error", 0: "message_0x0", 5: "message_0x5", 0x29: "message_0x29", 0x2a: "message_0x2a",
	} {
		if code.String() != want {
			t.Errorf("%#x is %s, want %s", uint16(code), code, want)
		}
		request := strings.HasSuffix(want, "_req") || code == 5 || code == 0x29
		if code.IsRequest() != request {
			t.Errorf("%v: IsRequest %v", code, code.IsRequest())
		}
	}
	if StoreReq.Answer() != StoreAns || MessageCode(0xfffd).IsRequest() {
		t.Error("answer code")
	}
	for code, want := range map[ErrorCode]string{
		2: "Error_Forbidden", 3: "Error_Not_Found", 4: "Error_Request_Timeout", 5: "Error_Generation_Counter_Too_Low",
		6: "Error_Incompatible_with_Overlay", 7: "Error_Unsupported_Forwarding_Option", 8: "Error_Data_Too_Large",
		9: "Error_Data_Too_Old", 0xa: "Error_TTL_Exceeded", 0xb: "Error_Message_Too_Large", 0xc: "Error_Unknown_Kind",
		0xd: "Error_Unknown_Extension", 0xe: "Error_Response_Too_Large", 0xf: "Error_Config_Too_Old",
		0x10: "Error_Config_Too_New", 0x11: "Error_In_Progress", 0x12: "Error_Exp_A", 0x13: "Error_Exp_B",
		0x14: "Error_Invalid_Message", 0x15: "Error_Underlay_Destination_Unreachable", 0x16: "Error_Underlay_Time_Exceeded",
		0x17: "Error_Message_Expired", 0x18: "Error_Upstream_Misrouting", 0x19: "Error_Loop_Detected", 0x1a: "Error_TTL_Hops_Exceeded",
		0x1b: "error_0x1b",
	} {
		if code.String() != want {
			t.Errorf("%#x is %s, want %s", uint16(code), code, want)
		}
	}
	if text := (ErrorResponse{Code: ErrorForbidden, Info: []byte("\x1b[2J")}).Error(); text != "RELOAD answer Error_Forbidden" {
		t.Errorf("%q", text)
	}
}

// TestImports keeps the codec free of input, output, clocks and locks; a Reassembler gets the time as an argument.
func TestImports(t *testing.T) {
	allowed := map[string]bool{
		"bytes": true, "crypto/sha1": true, "encoding/binary": true, "encoding/hex": true, "errors": true,
		"fmt": true, "net/netip": true, "slices": true, "strconv": true,
	}
	files, err := os.ReadDir(".")
	if err != nil {
		t.Fatal(err)
	}
	seen := 0
	for _, file := range files {
		name := file.Name()
		if !strings.HasSuffix(name, ".go") || strings.HasSuffix(name, "_test.go") {
			continue
		}
		source, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		parsed, err := parser.ParseFile(token.NewFileSet(), name, source, parser.ImportsOnly)
		if err != nil {
			t.Fatal(err)
		}
		for _, spec := range parsed.Imports {
			path, _ := strconv.Unquote(spec.Path.Value)
			seen++
			if !allowed[path] && (path != "time" || name != "fragment.go") {
				t.Errorf("%s imports %s", name, path)
			}
		}
		for _, clock := range []string{"time.Now", "time.Since", "time.Until", "time.After", "time.New"} {
			if strings.Contains(string(source), clock) {
				t.Errorf("%s uses %s", name, clock)
			}
		}
	}
	if seen == 0 {
		t.Error("no import seen")
	}
}

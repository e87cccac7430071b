package wire

import (
	"errors"
	"reflect"
	"strings"
	"testing"
)

// diagnosticValues has every Kind of RFC 7851 §5.3.
var diagnosticValues = []struct {
	kind  DiagnosticKind
	value DiagnosticValue
}{
	{DiagStatusInfo, DiagnosticValue{Number: 15}},
	{DiagRoutingTableSize, DiagnosticValue{Number: 6}},
	{DiagProcessPower, DiagnosticValue{Number: 8000}},
	{DiagUpstreamBandwidth, DiagnosticValue{Number: 1000}},
	{DiagDownstreamBandwidth, DiagnosticValue{Number: 2000}},
	{DiagSoftwareVersion, DiagnosticValue{Text: "fieldkitd/0.4"}},
	{DiagMachineUptime, DiagnosticValue{Number: 86400}},
	{DiagAppUptime, DiagnosticValue{Number: 3600}},
	{DiagMemoryFootprint, DiagnosticValue{Number: 20480}},
	{DiagDatasizeStored, DiagnosticValue{Number: 0x1234}},
	{DiagInstancesStored, DiagnosticValue{Instances: []StoredInstances{{KindSIPRegistration, 5}, {KindCertificateByNode, 2}}}},
	{DiagMessagesSentRcvd, DiagnosticValue{Messages: []ExchangedMessage{{PingReq, 7, 8}}}},
	{DiagEWMABytesSent, DiagnosticValue{Number: 100}},
	{DiagEWMABytesRcvd, DiagnosticValue{Number: 200}},
	{DiagUnderlayHop, DiagnosticValue{Number: 1}},
	{DiagBatteryStatus, DiagnosticValue{Number: uint64(BatteryMains)}},
	{0xf000, DiagnosticValue{Raw: []byte("abc")}},
}

func diagnosticInfo() []DiagnosticInfo {
	var list []DiagnosticInfo
	for _, d := range diagnosticValues {
		info, err := d.value.Info(d.kind)
		if err != nil {
			panic(err)
		}
		list = append(list, info)
	}
	return list
}

// TestDiagnosticValues reads each Kind from the golden, which was written by hand from RFC 7851 §5.3, and cuts it.
func TestDiagnosticValues(t *testing.T) {
	response, err := ParseDiagnosticsResponse(unhex(t, "diagnostics_ans"))
	if err != nil {
		t.Fatal(err)
	}
	if len(response.Info) != len(diagnosticValues) {
		t.Fatalf("%d items, want %d", len(response.Info), len(diagnosticValues))
	}
	for i, d := range diagnosticValues {
		info := response.Info[i]
		got, err := info.Value()
		if err != nil || info.Kind != d.kind || !reflect.DeepEqual(got, d.value) {
			t.Errorf("%v: %+v, %v, want %+v", info.Kind, got, err, d.value)
		}
		if d.value.Raw != nil {
			continue
		}
		for n := range info.Contents {
			short := DiagnosticInfo{info.Kind, info.Contents[:n:n]}
			if value, err := short.Value(); err == nil {
				if again, _ := value.Info(info.Kind); !reflect.DeepEqual(again.Contents, short.Contents) && n > 0 {
					t.Errorf("%v cut to %d bytes: %+v", info.Kind, n, value)
				}
			} else if !errors.Is(err, ErrMalformed) {
				t.Errorf("%v cut to %d bytes: %v", info.Kind, n, err)
			}
		}
		long := DiagnosticInfo{info.Kind, append(info.Contents[:len(info.Contents):len(info.Contents)], 0)}
		if _, err := long.Value(); !errors.Is(err, ErrMalformed) {
			t.Errorf("%v with a byte more: %v", info.Kind, err)
		}
	}
}

func TestDiagnosticValuesRefused(t *testing.T) {
	for _, c := range []struct {
		name     string
		kind     DiagnosticKind
		contents string
	}{
		{`"The rightmost 4 bits are used and other bits MUST be cleared"`, DiagStatusInfo, "\x10"},
		{`"MUST be terminated by "\0""`, DiagSoftwareVersion, "kit"},
		{`""\0" MUST NOT be included in the string itself"`, DiagSoftwareVersion, "k\x00it\x00"},
		{"string without anything", DiagSoftwareVersion, ""},
		{`"a US-ASCII string"`, DiagSoftwareVersion, "k\xc3\xa4\x00"},
		{"number of 7 bytes", DiagMachineUptime, "\x00\x00\x00\x00\x00\x00\x01"},
		{"entry of 11 bytes", DiagInstancesStored, strings.Repeat("\x00", 11)},
		{"entry of 19 bytes", DiagMessagesSentRcvd, strings.Repeat("\x00", 19)},
	} {
		if v, err := (DiagnosticInfo{c.kind, []byte(c.contents)}).Value(); !errors.Is(err, ErrMalformed) {
			t.Errorf("%s: %+v, %v", c.name, v, err)
		}
	}
	for _, c := range []struct {
		name  string
		kind  DiagnosticKind
		value DiagnosticValue
	}{
		{"congestion 16", DiagStatusInfo, DiagnosticValue{Number: 16}},
		{"256 hops", DiagUnderlayHop, DiagnosticValue{Number: 256}},
		{"2^32 peers", DiagRoutingTableSize, DiagnosticValue{Number: 1 << 32}},
		{"NUL in a string", DiagSoftwareVersion, DiagnosticValue{Text: "a\x00b"}},
		{"umlaut in a string", DiagSoftwareVersion, DiagnosticValue{Text: "ä"}},
		{"string too long", DiagSoftwareVersion, DiagnosticValue{Text: strings.Repeat("a", 0xffff)}},
	} {
		if info, err := c.value.Info(c.kind); !errors.Is(err, ErrUnencodable) || len(info.Contents) != 0 {
			t.Errorf("%s: %+v, %v", c.name, info, err)
		}
	}
}

// TestDiagnosticFlags checks names and flags against the registries of RFC 7851 §9.1 and §9.2.
func TestDiagnosticFlags(t *testing.T) {
	names := strings.Fields(`STATUS_INFO ROUTING_TABLE_SIZE PROCESS_POWER UPSTREAM_BANDWIDTH DOWNSTREAM_BANDWIDTH
		SOFTWARE_VERSION MACHINE_UPTIME APP_UPTIME MEMORY_FOOTPRINT DATASIZE_STORED INSTANCES_STORED MESSAGES_SENT_RCVD
		EWMA_BYTES_SENT EWMA_BYTES_RCVD UNDERLAY_HOP BATTERY_STATUS`)
	flag := uint64(2) // "Reserved First Bit"
	for i, name := range names {
		if k := DiagnosticKind(i + 1); k.String() != name || k.Flag() != flag {
			t.Errorf("%d: %v, flag %#x, want %s, %#x", i+1, k, k.Flag(), name, flag)
		}
		flag <<= 1
	}
	for kind, want := range map[DiagnosticKind]uint64{0: 0, 0x3e: 1 << 62, 0x3f: 0, 0x40: 0, 0xf000: 0, 0xffff: 0} {
		if kind.Flag() != want {
			t.Errorf("%v: flag %#x, want %#x", kind, kind.Flag(), want)
		}
	}
	if s := DiagnosticKind(0xf001).String(); s != "diagnostic_0xf001" {
		t.Error(s)
	}
}

// TestUpstream: "The immediate upstream peer information MUST also be conveyed to the initiator node" (RFC 7851 §6.2).
func TestUpstream(t *testing.T) {
	info := AppendUpstream(nil, node1)
	if got, err := ParseUpstream(info); err != nil || got != node1 {
		t.Errorf("%q: %v, %v", info, got, err)
	}
	for _, bad := range []string{"", "10", "the one before", strings.Repeat("00", 21)} {
		if _, err := ParseUpstream([]byte(bad)); !errors.Is(err, ErrMalformed) {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

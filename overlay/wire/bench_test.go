package wire

import (
	"encoding"
	"testing"
)

// typical are messages as kits exchange them, signed, with the certificate of one kit.
var typical = []string{
	"ping_req", "ping_ans", "attach_req", "store_req", "fetch_req", "fetch_ans", "update_req neighbors", "join_req", "route_query_req", "error",
}

// BenchmarkTypical parses and appends whole messages with their bodies.
func BenchmarkTypical(b *testing.B) {
	sign := signer(b)
	parsers := map[MessageCode]func([]byte) (encoding.BinaryAppender, error){
		PingReq: plain(ParsePingRequest), PingAns: plain(ParsePingAnswer), AttachReq: plain(ParseAttach), StoreReq: modelled(ParseStoreRequest),
		FetchReq: modelled(ParseFetchRequest), FetchAns: modelled(ParseFetchAnswer), UpdateReq: sized(ParseChordUpdate),
		JoinReq: sized(ParseJoinRequest), RouteQueryReq: plain(ParseRouteQueryRequest), ErrorAns: plain(ParseErrorResponse),
	}
	all := map[string]method{}
	for _, m := range methods() {
		all[m.name] = m
	}
	for _, name := range typical {
		m := &Message{
			Header: Header{
				Overlay: OverlayHash("chat.mission.home.arpa"), ConfigSequence: 7, TTL: 16, TransactionID: 1,
				Via: []Destination{ToNode(node1)}, Dest: []Destination{ToNode(node2)},
			},
			Code: all[name].code,
		}
		value := all[name].body
		body, err := value.AppendBinary(nil)
		if err != nil {
			b.Fatal(err)
		}
		m.Body = body
		sign(m)
		encoded, err := m.AppendBinary(nil)
		if err != nil {
			b.Fatal(err)
		}
		b.Run("parse/"+name, func(b *testing.B) {
			b.ReportAllocs()
			b.SetBytes(int64(len(encoded)))
			for b.Loop() {
				x, err := Parse(encoded)
				if err != nil {
					b.Fatal(err)
				}
				if _, err := parsers[x.Code](x.Body); err != nil {
					b.Fatal(err)
				}
			}
		})
		b.Run("append/"+name, func(b *testing.B) {
			scratch, out := make([]byte, 0, 4096), make([]byte, 0, 4096)
			b.ReportAllocs()
			b.SetBytes(int64(len(encoded)))
			for b.Loop() {
				if m.Body, err = value.AppendBinary(scratch); err != nil {
					b.Fatal(err)
				}
				if _, err := m.AppendBinary(out); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

package dns

import (
	"maps"
	"slices"
	"strings"

	"github.com/miekg/dns"
)

func sorted[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }

// Answer is the answer to a query that fits in size bytes, which is for TCP dns.MaxMsgSize; for UDP it is bounded by what
// the client takes, too. nil is no answer: what came is no query.
func (z *Zone) Answer(q *dns.Msg, size int) *dns.Msg {
	if q.Response {
		return nil
	}
	r := new(dns.Msg)
	r.SetReply(q)
	r.Compress = true
	// Nothing here is asked of anybody else. But a query is answered in full, so that a client which has only this server
	// is told what it would hear from one that asks on: some take an answer without this bit for none.
	r.RecursionAvailable = true
	limit := min(size, dns.MinMsgSize)
	if size == dns.MaxMsgSize {
		limit = size
	}
	if o := q.IsEdns0(); o != nil {
		limit = max(limit, min(int(o.UDPSize()), size))
		r.SetEdns0(maxUDP, o.Do())
		if o.Version() != 0 { // RFC 6891 §6.1.3
			r.Rcode = dns.RcodeBadVers
			return r
		}
	}
	switch {
	case q.Opcode != dns.OpcodeQuery:
		r.Rcode = dns.RcodeNotImplemented
	case len(q.Question) != 1: // RFC 9619 §4
		r.Rcode = dns.RcodeFormatError
	case q.Question[0].Qclass != dns.ClassINET || refused(q.Question[0].Qtype):
		r.Rcode = dns.RcodeRefused
	default:
		z.find(r, q.Question[0])
		r.Truncate(limit)
	}
	return r
}

// refused are the types that are no data: transfers, and what only lives in a message.
func refused(typ uint16) bool {
	return typ == dns.TypeAXFR || typ == dns.TypeIXFR || typ == dns.TypeMAILA || typ == dns.TypeMAILB || typ == dns.TypeOPT ||
		typ == dns.TypeTSIG || typ == dns.TypeTKEY || typ == dns.TypeSIG
}

// find fills in the records. Names are compared without regard to case and returned as they were asked for (RFC 4343
// §4.1), which clients use to tell answers from forged ones.
func (z *Zone) find(r *dns.Msg, q dns.Question) {
	r.Authoritative = true
	name := strings.ToLower(q.Name)
	records := z.records[name]
	if q.Qtype == dns.TypeANY && len(records) > 0 { // RFC 8482 §4.2
		r.Answer = []dns.RR{&dns.HINFO{Hdr: header(q.Name, dns.TypeHINFO, ownTTL), Cpu: "RFC8482"}}
		return
	}
	for _, rr := range records {
		if rr.Header().Rrtype != q.Qtype {
			continue
		}
		rr = dns.Copy(rr)
		rr.Header().Name = q.Name
		r.Answer = append(r.Answer, rr)
		if s, ok := rr.(*dns.SRV); ok {
			for _, a := range z.records[s.Target] {
				if a.Header().Rrtype == dns.TypeA || a.Header().Rrtype == dns.TypeAAAA {
					r.Extra = append([]dns.RR{a}, r.Extra...)
				}
			}
		}
	}
	if len(r.Answer) == 0 {
		r.Ns = []dns.RR{z.soa}
		if !z.exists[name] {
			r.Rcode = dns.RcodeNameError
		}
	}
}

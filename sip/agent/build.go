package agent

import (
	"fmt"
	"log/slog"
	"strconv"
	"strings"

	"github.com/emiago/sipgo/sip"

	"fieldkit/sip/sipmsg"
)

// quiet is for sipgo, whose logs hold whole messages, credentials included.
var quiet = slog.New(slog.DiscardHandler)

// trunkDomain makes a host name of a kit's name, in a domain nobody resolves
// (RFC 2606).
const trunkDomain = ".kit.invalid"

const maxForwards = 70

var reasons = map[int]string{
	100: "Trying", 200: "OK", 400: "Bad Request", 401: "Unauthorized", 403: "Forbidden", 404: "Not Found",
	405: "Method Not Allowed", 407: "Proxy Authentication Required", 408: "Request Timeout", 415: "Unsupported Media Type", 420: "Bad Extension",
	480: "Temporarily Unavailable", 481: "Call/Transaction Does Not Exist", 482: "Loop Detected", 483: "Too Many Hops",
	486: "Busy Here", 487: "Request Terminated", 488: "Not Acceptable Here", 489: "Bad Event", 500: "Server Internal Error",
	501: "Not Implemented", 502: "Bad Gateway", 503: "Service Unavailable", 513: "Message Too Large",
}

func reason(status int) string {
	if r := reasons[status]; r != "" {
		return r
	}
	return "Status " + strconv.Itoa(status)
}

// makeResponse builds a response to req (RFC 3261 §8.2.6).
func (a *Agent) makeResponse(req *sip.Request, status int, text, tag string, headers ...sip.Header) *sip.Response {
	if text == "" {
		text = reason(status)
	}
	res := sip.NewResponse(status, text)
	for _, h := range req.GetHeaders("via") {
		res.AppendHeader(sip.HeaderClone(h))
	}
	res.AppendHeader(sip.HeaderClone(req.From()))
	to := sip.HeaderClone(req.To()).(*sip.ToHeader)
	if _, ok := sipmsg.Param(to.Params, "tag"); !ok && status > 100 {
		to.Params.Add("tag", tag)
	}
	res.AppendHeader(to)
	res.AppendHeader(sip.HeaderClone(req.CallID()))
	res.AppendHeader(sip.HeaderClone(req.CSeq()))
	for _, h := range headers {
		res.AppendHeader(h)
	}
	res.SetBody(nil)
	res.SetTransport(req.Transport())
	return res
}

// reject answers a request without a transaction.
func (a *Agent) reject(f *flow, req *sip.Request, status int, text string, headers ...sip.Header) {
	if req.Method == sip.ACK {
		return
	}
	if f.udp != nil {
		if _, ok := sipmsg.Param(req.Via().Params, "rport"); !ok {
			port := req.Via().Port
			if port == 0 {
				port = 5060
			}
			f = f.at(uint16(port))
		}
	}
	tag := a.statelessTag([]byte("From:" + req.From().Value() + "\r\nCall-ID:" + string(*req.CallID()) + "\r\nCSeq:" + req.CSeq().Value()))
	if err := f.WriteMsg(a.makeResponse(req, status, text, tag, headers...)); err != nil {
		a.count.sendErrors.Add(1)
	}
}

// markVia adds received and rport to the top Via: RFC 3261 §18.2.1, RFC 3581 §4.
func markVia(f *flow, req *sip.Request) {
	if f.trunk != nil {
		return
	}
	via := req.Via()
	set := func(name, value string) {
		for i := range via.Params {
			if strings.EqualFold(via.Params[i].K, name) {
				via.Params[i].V = value
				return
			}
		}
		via.Params.Add(name, value)
	}
	host := f.remote.Addr().String()
	v, rport := sipmsg.Param(via.Params, "rport")
	if rport && v == "" {
		set("rport", strconv.Itoa(int(f.remote.Port())))
	}
	if rport || !strings.EqualFold(strings.Trim(via.Host, "[]"), host) {
		set("received", host)
	}
}

// host is how this kit calls itself on a flow.
func (a *Agent) host(f *flow) (string, int) {
	if f.trunk != nil {
		return a.cfg.Kit + trunkDomain, 0
	}
	return a.cfg.Address.String(), int(a.cfg.Port)
}

// recordRoute is the URI by which requests of a dialog come back on a flow.
func (a *Agent) recordRoute(f *flow) string {
	host, port := a.host(f)
	if strings.Contains(host, ":") {
		host = "[" + host + "]"
	}
	uri := "sip:" + host
	if port != 0 {
		uri += ":" + strconv.Itoa(port)
	}
	if f.stream != nil {
		uri += ";transport=tcp"
	}
	return "<" + uri + ";lr>"
}

// via is the Via of a request that leaves on a flow.
func (a *Agent) via(f *flow, branch string) *sip.ViaHeader {
	host, port := a.host(f)
	v := &sip.ViaHeader{ProtocolName: "SIP", ProtocolVersion: "2.0", Transport: f.network(), Host: host, Port: port}
	v.Params = sip.NewParams()
	v.Params.Add("branch", branch)
	if f.trunk == nil {
		v.Params.Add("rport", "")
	}
	return v
}

// private are the fields that nobody but us may set: what a handset claims in
// them is worth nothing at another kit.
var private = map[string]bool{
	"P-Asserted-Identity": true, "P-Preferred-Identity": true, "Privacy": true, "Identity": true, "Identity-Info": true,
	"Route": true, "Record-Route": true, "Path": true,
	"Authorization": true, "Proxy-Authorization": true, "Proxy-Authenticate": true, "WWW-Authenticate": true,
	"Content-Length": true, "Max-Forwards": true,
}

// forward builds what leaves from what came (RFC 3261 §16.6). The original stays
// as it is: the transaction answers with it.
func (a *Agent) forward(req *sip.Request, from, to *flow, uri sip.Uri, extra ...sip.Header) *sip.Request {
	out := sip.NewRequest(req.Method, uri)
	out.AppendHeader(a.via(to, newBranch()))
	for _, h := range extra {
		out.AppendHeader(h)
	}
	// A trunk is a kit of the mission: it has done this to what its handset sent.
	trusted := from.trunk != nil
	for _, h := range req.Headers() {
		name := h.Name()
		if private[name] && (!trusted || (name != "P-Asserted-Identity" && name != "Record-Route")) {
			continue
		}
		out.AppendHeader(sip.HeaderClone(h))
	}
	hops := uint32(maxForwards)
	if mf := req.MaxForwards(); mf != nil {
		hops = mf.Val()
	}
	mf := sip.MaxForwardsHeader(min(hops, maxForwards) - 1)
	out.AppendHeader(&mf)
	out.SetBody(req.Body())
	return out
}

// back builds the response that goes on from one that came: without our Via.
func back(res *sip.Response, trusted bool) *sip.Response {
	out := sip.NewResponse(res.StatusCode, res.Reason)
	first := true
	for _, h := range res.Headers() {
		name := h.Name()
		if name == "Via" && first {
			first = false
			continue
		}
		if name == "Content-Length" || (!trusted && (name == "P-Asserted-Identity" || name == "Privacy" || name == "Identity")) {
			continue
		}
		out.AppendHeader(sip.HeaderClone(h))
	}
	out.SetBody(res.Body())
	return out
}

// cancelOf builds the CANCEL of a request we sent (RFC 3261 §9.1): same
// Request-URI, Call-ID, To, From, CSeq number, and top Via.
func cancelOf(req *sip.Request) *sip.Request {
	c := sip.NewRequest(sip.CANCEL, *req.Recipient.Clone())
	c.AppendHeader(req.Via().Clone())
	for _, h := range req.GetHeaders("Route") {
		c.AppendHeader(sip.HeaderClone(h))
	}
	mf := sip.MaxForwardsHeader(maxForwards)
	c.AppendHeader(&mf)
	c.AppendHeader(sip.HeaderClone(req.From()))
	c.AppendHeader(sip.HeaderClone(req.To()))
	c.AppendHeader(sip.HeaderClone(req.CallID()))
	c.AppendHeader(&sip.CSeqHeader{SeqNo: req.CSeq().SeqNo, MethodName: sip.CANCEL})
	c.SetBody(nil)
	return c
}

// inDialog builds a request of ours inside the dialog that res made: only for a
// dialog whose other end is gone.
func (a *Agent) inDialog(res *sip.Response, to *flow, method sip.RequestMethod, seq uint32) (*sip.Request, error) {
	contact, err := sipmsg.ParseAddress(sipmsg.Value(res, "Contact"))
	if err != nil {
		return nil, fmt.Errorf("remote target: %w", err)
	}
	req := sip.NewRequest(method, contact.URI)
	req.AppendHeader(a.via(to, newBranch()))
	mf := sip.MaxForwardsHeader(maxForwards)
	req.AppendHeader(&mf)
	req.AppendHeader(sip.HeaderClone(res.From()))
	req.AppendHeader(sip.HeaderClone(res.To()))
	req.AppendHeader(sip.HeaderClone(res.CallID()))
	req.AppendHeader(&sip.CSeqHeader{SeqNo: seq, MethodName: method})
	req.SetBody(nil)
	return req, nil
}

// inDialogBack builds a request of ours in the dialog that res made, toward the one who sent the invite: the callee's
// requests have From and To the other way round (RFC 3261 §12.2.1.1).
func (a *Agent) inDialogBack(invite *sip.Request, res *sip.Response, to *flow, method sip.RequestMethod, seq uint32) (*sip.Request, error) {
	contact, err := sipmsg.ParseAddress(sipmsg.Value(invite, "Contact"))
	if err != nil {
		return nil, fmt.Errorf("remote target: %w", err)
	}
	req := sip.NewRequest(method, contact.URI)
	req.AppendHeader(a.via(to, newBranch()))
	mf := sip.MaxForwardsHeader(maxForwards)
	req.AppendHeader(&mf)
	callee, caller := res.To(), res.From()
	req.AppendHeader(&sip.FromHeader{DisplayName: callee.DisplayName, Address: callee.Address, Params: callee.Params})
	req.AppendHeader(&sip.ToHeader{DisplayName: caller.DisplayName, Address: caller.Address, Params: caller.Params})
	req.AppendHeader(sip.HeaderClone(res.CallID()))
	req.AppendHeader(&sip.CSeqHeader{SeqNo: seq, MethodName: method})
	req.SetBody(nil)
	return req, nil
}

// opaque says whether a request may hold a session description that the relay cannot see: the phones would send past
// it.
func opaque(req *sip.Request) bool {
	switch req.Method {
	case sip.INVITE, sip.UPDATE, sip.PRACK:
		return len(req.Body()) > 0 && (!sdpBody(req) || sipmsg.Value(req, "Content-Encoding") != "")
	}
	return false
}

// sdpBody says whether a message carries a session description.
func sdpBody(m sip.Message) bool {
	if len(m.Body()) == 0 {
		return false
	}
	t, _, _ := strings.Cut(sipmsg.Value(m, "Content-Type"), ";")
	return strings.EqualFold(strings.TrimSpace(t), "application/sdp")
}

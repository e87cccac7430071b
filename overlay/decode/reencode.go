package decode

import (
	"encoding"
	"slices"

	"fieldkit/overlay/wire"
)

// Reencode appends what wire's encoder makes of what its parsers read in data, a frame, a message or a fragment: the same
// bytes if they are well formed. It goes down to the values of known Kinds, options and extensions.
func (d *Decoder) Reencode(b, data []byte) ([]byte, error) {
	if !isFrame(data) {
		return d.reencodeMessage(b, data)
	}
	frame, err := wire.ParseFrame(data)
	if err != nil {
		return b, err
	}
	if frame.Type == wire.FrameData {
		if frame.Message, err = d.reencodeMessage(nil, frame.Message); err != nil {
			return b, err
		}
	}
	return frame.AppendBinary(b)
}

func (d *Decoder) reencodeMessage(b, data []byte) ([]byte, error) {
	header, rest, err := wire.ParseHeader(data)
	if err != nil {
		return b, err
	}
	for i := range header.Options {
		o := &header.Options[i]
		content, err := parseOption(o)
		if o.Data, err = again(o.Data, content, err == nil); err != nil {
			return b, err
		}
	}
	if header.IsFragment() {
		return header.AppendForward(b, rest)
	}
	m, err := wire.Parse(data)
	if err != nil {
		return b, err
	}
	m.Options = header.Options
	for i := range m.Extensions {
		e := &m.Extensions[i]
		content, err := parseExtension(m.Code, e)
		if e.Data, err = again(e.Data, content, err == nil); err != nil {
			return b, err
		}
	}
	idLen := d.nodeIDLength(&m.Header)
	body, err := parseBody(m.Code, m.Body, idLen, d.models)
	if err != nil {
		return b, err
	}
	if body, err = againInside(body, idLen); err != nil {
		return b, err
	}
	if m.Body, err = body.AppendBinary(nil); err != nil {
		return b, err
	}
	return m.AppendBinary(b)
}

// again is the encoding of content, or raw when there was none to read. What could not be read stays as it is: that it is
// malformed is said elsewhere.
func again(raw []byte, content encoding.BinaryAppender, readable bool) ([]byte, error) {
	if content == nil || !readable {
		return raw, nil
	}
	return content.AppendBinary(nil)
}

// againInside encodes anew what is inside the fields of a body.
func againInside(body encoding.BinaryAppender, idLen int) (encoding.BinaryAppender, error) {
	var err error
	switch body := body.(type) {
	case wire.StoreRequest:
		for i := range body.Kinds {
			if err = againValues(body.Kinds[i].Kind, body.Kinds[i].Values); err != nil {
				return nil, err
			}
		}
	case wire.FetchAnswer:
		for i := range body.Kinds {
			if err = againValues(body.Kinds[i].Kind, body.Kinds[i].Values); err != nil {
				return nil, err
			}
		}
	case wire.LeaveRequest:
		leave, malformed := wire.ParseChordLeave(body.OverlaySpecific, idLen)
		body.OverlaySpecific, err = again(body.OverlaySpecific, leave, malformed == nil)
		return body, err
	case wire.ErrorResponse:
		info, malformed := parseErrorInfo(body, idLen)
		body.Info, err = again(body.Info, info, malformed == nil)
		return body, err
	case wire.PathTrackAnswer:
		body.Response.Info = slices.Clone(body.Response.Info)
		for i, info := range body.Response.Info {
			value, malformed := info.Value()
			if malformed != nil {
				continue
			}
			if body.Response.Info[i], err = value.Info(info.Kind); err != nil {
				return nil, err
			}
		}
		return body, nil
	}
	return body, nil
}

func againValues(kind wire.KindID, values []wire.StoredData) error {
	for i := range values {
		v := &values[i].Value
		if !v.Exists {
			continue
		}
		content, malformed := parseValue(kind, v.Value)
		var err error
		if v.Value, err = again(v.Value, content, malformed == nil); err != nil {
			return err
		}
	}
	return nil
}

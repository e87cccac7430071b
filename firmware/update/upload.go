package update

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"time"

	"fieldkit/firmware/card"
)

// MediaType is that of a bundle.
const MediaType = "application/vnd.fieldkit.update"

// FormField is the part of a multipart/form-data upload that holds the bundle.
const FormField = "bundle"

// What an upload must keep up with. A handset's radio is at least ten times as fast.
const (
	headerWithin = 10 * time.Second // from the request to the end of the bundle's header
	readWithin   = 15 * time.Second // for the next bytes
	minRate      = 16 << 10         // bytes a second on average, after the first readWithin
	answerWithin = 2 * time.Minute  // to write, sync and read back what is left, and to answer
)

// Upload is what an upload is answered with.
type Upload struct {
	Version  string `json:"version"`
	Sequence uint64 `json:"sequence"`
	State    State  `json:"state"`
}

// Handler takes bundles by POST, as they are or as FormField of a form. Whose they are, only their signature says, so it
// asks for no password; and no page of somebody else can make a browser send one. One is taken at a time. After a form
// it leads back to the page at back. A nil Updater refuses.
func (u *Updater) Handler(back string) http.Handler {
	busy := make(chan struct{}, 1)
	cross := http.NewCrossOriginProtection()
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if err := cross.Check(r); err != nil {
			http.Error(w, "sent by another site's page", http.StatusForbidden)
			return
		}
		select {
		case busy <- struct{}{}:
			defer func() { <-busy }()
		default:
			refuse(w, ErrBusy)
			return
		}
		p := newPace(http.NewResponseController(w), r.Body)
		body, form, err := bundleOf(r, p)
		var m card.Manifest
		if err == nil {
			m, err = u.Receive(r.Context(), body, true)
		}
		_ = p.control.SetReadDeadline(time.Now().Add(readWithin)) // for what the server still reads of a refused one
		_ = p.control.SetWriteDeadline(time.Now().Add(readWithin))
		switch {
		case err != nil:
			refuse(w, err)
		case form:
			http.Redirect(w, r, back, http.StatusSeeOther)
		default:
			w.Header().Set("Content-Type", "application/json")
			w.WriteHeader(http.StatusAccepted)
			_ = json.NewEncoder(w).Encode(Upload{Version: m.Release.Version, Sequence: m.Release.Sequence, State: Written})
		}
	})
}

// bundleOf finds the bundle in a request.
func bundleOf(r *http.Request, body io.Reader) (bundle io.Reader, form bool, err error) {
	media, params, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	switch {
	case err == nil && media == MediaType:
		return body, false, nil
	case err != nil || media != "multipart/form-data" || params["boundary"] == "":
		return nil, false, errMedia
	}
	r.Body = io.NopCloser(body)
	parts, err := r.MultipartReader()
	if err != nil {
		return nil, true, fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	part, err := parts.NextPart()
	if err != nil || part.FormName() != FormField {
		return nil, true, fmt.Errorf("%w: the form has no file", ErrMalformed)
	}
	return part, true, nil
}

var errMedia = errors.New("content type other than " + MediaType)

// refuse answers with what was wrong, in words.
func refuse(w http.ResponseWriter, err error) {
	code := http.StatusInternalServerError
	for _, c := range []struct {
		is   error
		code int
	}{
		{errMedia, http.StatusUnsupportedMediaType},
		{ErrForeign, http.StatusForbidden},
		{ErrMalformed, http.StatusBadRequest},
		{ErrTruncated, http.StatusBadRequest},
		{ErrSlow, http.StatusRequestTimeout},
		{ErrTooLarge, http.StatusRequestEntityTooLarge},
		{ErrDamaged, http.StatusUnprocessableEntity},
		{ErrBoard, http.StatusConflict},
		{ErrOlder, http.StatusConflict},
		{ErrSame, http.StatusConflict},
		{ErrBusy, http.StatusServiceUnavailable},
		{ErrNoCard, http.StatusNotImplemented},
	} {
		if errors.Is(err, c.is) {
			code = c.code
			break
		}
	}
	// What is left of the body is not worth reading.
	w.Header().Set("Connection", "close")
	if code == http.StatusServiceUnavailable {
		w.Header().Set("Retry-After", "60")
	}
	http.Error(w, err.Error(), code)
}

// pace ends the request of a sender that is slow on purpose: it would keep everybody else from updating the kit.
type pace struct {
	body    io.Reader
	control *http.ResponseController
	began   time.Time
	read    int64
}

func newPace(c *http.ResponseController, body io.Reader) *pace {
	return &pace{body: body, control: c, began: time.Now()}
}

// Read implements io.Reader.
func (p *pace) Read(b []byte) (int, error) {
	now := time.Now()
	by := now.Add(readWithin)
	if p.read < card.MaxManifest {
		by = p.began.Add(headerWithin)
	}
	if spent := now.Sub(p.began); spent > readWithin && p.read < int64(spent.Seconds())*minRate {
		return 0, fmt.Errorf("%w: %d bytes in %d s", ErrSlow, p.read, int(spent.Seconds()))
	}
	// The server's own deadlines are those of pages.
	if err := errors.Join(p.control.SetReadDeadline(by), p.control.SetWriteDeadline(by.Add(answerWithin))); err != nil {
		return 0, err
	}
	n, err := p.body.Read(b)
	p.read += int64(n)
	if errors.Is(err, io.EOF) {
		// From here on the server reads to notice who hangs up, and a deadline would end the request's context.
		if e := p.control.SetReadDeadline(time.Time{}); e != nil {
			return n, e
		}
		return n, io.EOF
	}
	if err != nil && !time.Now().Before(by) {
		return n, fmt.Errorf("%w: %d bytes in %d s", ErrSlow, p.read, int(time.Since(p.began).Seconds()))
	}
	return n, err
}

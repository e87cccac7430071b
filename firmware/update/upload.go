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

const maxUploads = 24 // at a time, more than one handset can have connections; one at most is past its header

// limits are what an upload must keep up with.
type limits struct {
	header time.Duration // from the request to the end of the bundle's header
	read   time.Duration // for the next bytes
	rate   int64         // bytes a second on average, after the first read
	answer time.Duration // to write, sync and read back what is left, and to answer
}

// uploadLimits are for handsets: their radio is at least ten times as fast.
var uploadLimits = limits{header: 10 * time.Second, read: 15 * time.Second, rate: 16 << 10, answer: 2 * time.Minute}

// Upload is what an upload is answered with.
type Upload struct {
	Version  string `json:"version"`
	Sequence uint64 `json:"sequence"`
	State    State  `json:"state"`
}

// Handler takes bundles by POST, as they are or as FormField of a form. Whose they are, only their signature says, so it
// asks for no password; and no page of somebody else can make a browser send one. One is written at a time; a few more
// may be at their headers, so that whoever is slow there keeps nobody else out. After a form it leads back to the page at
// back. A nil Updater refuses.
func (u *Updater) Handler(back string) http.Handler { return u.handler(back, uploadLimits) }

func (u *Updater) handler(back string, lim limits) http.Handler {
	busy := make(chan struct{}, maxUploads)
	cross := http.NewCrossOriginProtection()
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if err := cross.Check(r); err != nil {
			refuse(w, r, lim, errCross)
			return
		}
		select {
		case busy <- struct{}{}:
		default:
			refuse(w, r, lim, ErrBusy)
			return
		}
		p := &pace{limits: lim, body: r.Body, control: http.NewResponseController(w), began: time.Now()}
		body, form, err := bundleOf(r, p)
		var m card.Manifest
		if err == nil {
			m, err = u.Receive(r.Context(), body)
		}
		<-busy
		switch {
		case err != nil:
			refuse(w, r, lim, err)
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

var (
	errMedia = errors.New("content type other than " + MediaType)
	errCross = errors.New("sent by another site's page")
)

// refuse answers with what was wrong, in words.
func refuse(w http.ResponseWriter, r *http.Request, lim limits, err error) {
	code := http.StatusInternalServerError
	for _, c := range []struct {
		is   error
		code int
	}{
		{errCross, http.StatusForbidden},
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
	c := http.NewResponseController(w)
	by := time.Now().Add(lim.read)
	_ = errors.Join(c.EnableFullDuplex(), c.SetReadDeadline(by), c.SetWriteDeadline(by)) // what fails here fails below
	w.Header().Set("Connection", "close")
	if code == http.StatusServiceUnavailable {
		w.Header().Set("Retry-After", "60")
	}
	http.Error(w, err.Error(), code)
	if c.Flush() != nil {
		return
	}
	// What is left of the body is of no use, but a connection that is closed before it came takes the answer along.
	_, _ = io.Copy(io.Discard, io.LimitReader(r.Body, card.SlotA.Size))
}

// pace ends the request of a sender that is slow on purpose: it would keep everybody else from updating the kit.
type pace struct {
	limits
	body    io.Reader
	control *http.ResponseController
	began   time.Time
	got     int64
}

// Read implements io.Reader.
func (p *pace) Read(b []byte) (int, error) {
	now := time.Now()
	by := now.Add(p.read)
	if p.got < card.MaxManifest {
		by = p.began.Add(p.header)
	}
	if spent := now.Sub(p.began); spent > p.read && p.got < int64(spent.Seconds()*float64(p.rate)) {
		return 0, fmt.Errorf("%w: %d bytes in %d s", ErrSlow, p.got, int(spent.Seconds()))
	}
	// The server's own deadlines are those of pages.
	if err := errors.Join(p.control.SetReadDeadline(by), p.control.SetWriteDeadline(by.Add(p.answer))); err != nil {
		return 0, err
	}
	n, err := p.body.Read(b)
	p.got += int64(n)
	if errors.Is(err, io.EOF) {
		// From here on the server reads to notice who hangs up, and a deadline would end the request's context.
		if e := p.control.SetReadDeadline(time.Time{}); e != nil {
			return n, e
		}
		return n, io.EOF
	}
	if err != nil && !time.Now().Before(by) {
		return n, fmt.Errorf("%w: %d bytes in %d s", ErrSlow, p.got, int(time.Since(p.began).Seconds()))
	}
	return n, err
}

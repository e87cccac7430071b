package registrar

import (
	"container/list"
	"crypto/hmac"
	"crypto/md5" //nolint:gosec // RFC 3261 §22.4 names MD5, and it is what every phone speaks
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"strconv"
	"strings"
	"time"
)

// Bounds of the authenticator.
const (
	NonceLifetime = 10 * time.Minute

	maxNonces   = 4096
	maxSuspects = 1024
	firstDelay  = 250 * time.Millisecond
	maxDelay    = 30 * time.Second
)

// Verdict is what the authenticator makes of credentials.
type Verdict uint8

// The verdicts.
const (
	Missing Verdict = iota + 1 // no credentials for our realm: challenge
	Stale                      // right password, but the nonce or its count is used up: challenge with stale=true
	Wrong                      // wrong password or unknown user: challenge
	Invalid                    // malformed, or not for this request: 400
	Delayed                    // too many wrong passwords from there: try later
	Granted
)

func (v Verdict) String() string {
	return [...]string{"unset", "missing", "stale", "wrong", "invalid", "delayed", "granted"}[min(v, Granted)]
}

// Check are the facts of a request whose credentials are to be verified.
type Check struct {
	Source  string // address without port: the delay is per source and account
	Method  string
	URI     string   // the Request-URI as it came
	Headers []string // all Authorization or Proxy-Authorization values
}

// Digest verifies credentials. It keeps no state for a challenge, one small
// entry for a nonce that was used with success, and one for a source that gave
// a wrong password; both tables are bounded, the oldest entry goes.
type Digest struct {
	realm  string
	secret [32]byte
	serial uint64
	floor  uint64 // nonces up to this serial are spent unless in the table

	nonces   map[uint64]*list.Element // of *nonce
	order    *list.List
	suspects map[suspectKey]*list.Element // of *suspect
	recent   *list.List

	stats DigestStats
}

// DigestStats are counters since the start.
type DigestStats struct {
	Challenged, Granted, Stale, Wrong, Invalid, Delayed uint64
}

type nonce struct {
	serial uint64
	count  uint32
}

type suspectKey struct{ source, user string }

type suspect struct {
	key   suspectKey
	fails int
	until time.Time
}

// NewDigest makes an authenticator for realm. The secret must be random and new
// at each start.
func NewDigest(realm string, secret [32]byte) *Digest {
	return &Digest{
		realm: realm, secret: secret,
		nonces: make(map[uint64]*list.Element), order: list.New(),
		suspects: make(map[suspectKey]*list.Element), recent: list.New(),
	}
}

// Challenge returns the value of a WWW-Authenticate or Proxy-Authenticate header
// field. MD5 alone is offered: some phones stop at the first challenge they do
// not know.
func (d *Digest) Challenge(now time.Time, stale bool) string {
	d.stats.Challenged++
	d.serial++
	s := `Digest realm="` + d.realm + `", nonce="` + d.nonce(now, d.serial) + `", algorithm=MD5, qop="auth"`
	if stale {
		s += `, stale=true`
	}
	return s
}

// The nonce is time, serial and a MAC over both: whether it is ours and how old
// it is can be told without keeping it.
func (d *Digest) nonce(now time.Time, serial uint64) string {
	var b [16 + 16]byte
	binary.BigEndian.PutUint64(b[:], uint64(now.UnixNano()))
	binary.BigEndian.PutUint64(b[8:], serial)
	copy(b[16:], d.mac(b[:16]))
	return base64.RawURLEncoding.EncodeToString(b[:])
}

func (d *Digest) mac(b []byte) []byte {
	m := hmac.New(sha256.New, d.secret[:])
	m.Write(b)
	return m.Sum(nil)[:16]
}

// fresh says whether a nonce is ours and young, and which it is.
func (d *Digest) fresh(now time.Time, s string) (uint64, bool) {
	b, err := base64.RawURLEncoding.DecodeString(s)
	if err != nil || len(b) != 32 || subtle.ConstantTimeCompare(b[16:], d.mac(b[:16])) != 1 {
		return 0, false
	}
	age := now.UnixNano() - int64(binary.BigEndian.Uint64(b))
	return binary.BigEndian.Uint64(b[8:]), age >= 0 && age <= int64(NonceLifetime)
}

// Verify checks the credentials of a request. password returns the password of
// a user, and false for one that does not exist. The user is returned with
// Granted only.
func (d *Digest) Verify(now time.Time, c Check, password func(user string) (string, bool)) (string, Verdict, time.Duration) {
	var cred credentials
	found := false
	for _, h := range c.Headers {
		p, ok := parseCredentials(h)
		if ok && p["realm"] == d.realm {
			cred, found = p, true
			break
		}
	}
	if !found {
		return "", Missing, 0
	}
	if alg := cred["algorithm"]; (alg != "" && !strings.EqualFold(alg, "MD5")) ||
		cred["qop"] != "auth" || cred["username"] == "" || cred["nonce"] == "" || cred["cnonce"] == "" ||
		len(cred["nc"]) != 8 || len(cred["response"]) != 32 || !sameURI(cred["uri"], c.URI) {
		d.stats.Invalid++
		return "", Invalid, 0
	}
	count, err := strconv.ParseUint(cred["nc"], 16, 32)
	if err != nil || count == 0 {
		d.stats.Invalid++
		return "", Invalid, 0
	}
	user := strings.ToLower(cred["username"])
	key := suspectKey{c.Source, user[:min(len(user), 64)]}
	if wait := d.delay(now, key); wait > 0 {
		d.stats.Delayed++
		return "", Delayed, wait
	}
	pw, known := password(user)
	// Both ways take the same time, so that accounts cannot be probed.
	want := digestResponse(cred["username"], d.realm, pw, c.Method, cred["uri"], cred["nonce"], cred["nc"], cred["cnonce"])
	if subtle.ConstantTimeCompare([]byte(want), []byte(strings.ToLower(cred["response"]))) != 1 || !known {
		d.fail(now, key)
		d.stats.Wrong++
		return "", Wrong, 0
	}
	d.forgive(key)
	// stale only after the password was seen to be right: RFC 7616 §3.3, "the
	// server should only set stale to true if it receives a request for which the
	// nonce is invalid but with a valid digest for that nonce".
	serial, ok := d.fresh(now, cred["nonce"])
	if !ok || !d.use(serial, uint32(count)) {
		d.stats.Stale++
		return "", Stale, 0
	}
	d.stats.Granted++
	return user, Granted, 0
}

// use counts the use of a nonce; the count must rise.
func (d *Digest) use(serial uint64, count uint32) bool {
	if e := d.nonces[serial]; e != nil {
		n := e.Value.(*nonce)
		if count <= n.count {
			return false
		}
		n.count = count
		return true
	}
	// A nonce that was evicted could be replayed from its first count on: all up
	// to the newest evicted one are spent.
	if serial <= d.floor || count != 1 {
		return false
	}
	if d.order.Len() >= maxNonces {
		e := d.order.Front()
		old := d.order.Remove(e).(*nonce)
		delete(d.nonces, old.serial)
		d.floor = max(d.floor, old.serial)
	}
	d.nonces[serial] = d.order.PushBack(&nonce{serial: serial, count: count})
	return true
}

func (d *Digest) delay(now time.Time, k suspectKey) time.Duration {
	e := d.suspects[k]
	if e == nil {
		return 0
	}
	return e.Value.(*suspect).until.Sub(now)
}

// fail makes the pair of source and account wait, twice as long each time.
// Nobody else is affected: a stranger cannot lock a person out.
func (d *Digest) fail(now time.Time, k suspectKey) {
	e := d.suspects[k]
	if e == nil {
		if d.recent.Len() >= maxSuspects {
			old := d.recent.Remove(d.recent.Front()).(*suspect)
			delete(d.suspects, old.key)
		}
		e = d.recent.PushBack(&suspect{key: k})
		d.suspects[k] = e
	}
	s := e.Value.(*suspect)
	s.fails++
	wait := maxDelay
	// The first mistakes are free: phones try old credentials once.
	switch n := s.fails - 2; {
	case n <= 0:
		wait = 0
	case n < 8:
		wait = min(firstDelay<<(n-1), maxDelay)
	}
	s.until = now.Add(wait)
	d.recent.MoveToBack(e)
}

func (d *Digest) forgive(k suspectKey) {
	if e := d.suspects[k]; e != nil {
		d.recent.Remove(e)
		delete(d.suspects, k)
	}
}

// Stats returns the counters.
func (d *Digest) Stats() DigestStats { return d.stats }

func digestResponse(user, realm, password, method, uri, nonce, nc, cnonce string) string {
	ha1 := md5hex(user + ":" + realm + ":" + password)
	ha2 := md5hex(method + ":" + uri)
	return md5hex(ha1 + ":" + nonce + ":" + nc + ":" + cnonce + ":auth:" + ha2)
}

func md5hex(s string) string {
	h := md5.Sum([]byte(s)) //nolint:gosec // see above
	return hex.EncodeToString(h[:])
}

// sameURI compares the digest-uri with the Request-URI. Some phones leave the
// parameters out, which RFC 3261 §22.4 point 5 lets us accept; scheme, user and
// host must be the same.
func sameURI(digest, request string) bool {
	if digest == "" {
		return false
	}
	trim := func(s string) string {
		s, _, _ = strings.Cut(s, ";")
		return s
	}
	return strings.EqualFold(trim(digest), trim(request))
}

type credentials map[string]string

// parseCredentials reads `Digest name=value, …`. Names are lower-cased.
func parseCredentials(s string) (credentials, bool) {
	scheme, rest, ok := strings.Cut(strings.TrimSpace(s), " ")
	if !ok || !strings.EqualFold(scheme, "Digest") || len(rest) > 4096 {
		return nil, false
	}
	c := make(credentials)
	for rest = strings.TrimLeft(rest, " \t,"); rest != ""; rest = strings.TrimLeft(rest, " \t,") {
		name, value, found := strings.Cut(rest, "=")
		if !found || len(c) > 32 {
			return nil, false
		}
		name = strings.ToLower(strings.TrimSpace(name))
		value = strings.TrimLeft(value, " \t")
		if strings.HasPrefix(value, `"`) {
			var sb strings.Builder
			i := 1
			for ; i < len(value) && value[i] != '"'; i++ {
				if value[i] == '\\' && i+1 < len(value) {
					i++
				}
				sb.WriteByte(value[i])
			}
			if i >= len(value) {
				return nil, false
			}
			rest = value[i+1:]
			value = sb.String()
		} else {
			value, rest, _ = strings.Cut(value, ",")
			value = strings.TrimSpace(value)
		}
		if _, twice := c[name]; twice {
			return nil, false
		}
		c[name] = value
	}
	return c, true
}

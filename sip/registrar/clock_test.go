package registrar

import (
	"testing"
	"time"
)

// "Works at any clock": a handset registers in 1970 as in 2040, is challenged and answers, and what is restored after a
// restart at which the clock fell back or went ahead lasts no longer than any registration may.
func TestAnyClock(t *testing.T) {
	for _, year := range []int{1970, 2025, 2040} {
		now := time.Date(year, 1, 1, 0, 1, 0, 0, time.UTC)
		r := newRegistrar(t)
		res, _ := r.Register(now, reg("a", 1, contact("sip:a@10.73.0.9", time.Hour)))
		if res.Status != StatusOK || len(r.Lookup(now.Add(59*time.Minute), "10001@"+domain)) != 1 || len(r.Lookup(now.Add(61*time.Minute), "10001@"+domain)) != 0 {
			t.Errorf("%d: %d %s", year, res.Status, res.Reason)
		}
		saved := r.Snapshot()
		for _, later := range []time.Time{now.AddDate(-1, 0, 0), now.Add(time.Minute)} {
			r := newRegistrar(t)
			r.Restore(later, saved)
			if len(r.Lookup(later, "10001@"+domain)) != 1 || len(r.Lookup(later.Add(MaxExpires), "10001@"+domain)) != 0 {
				t.Errorf("%d, restored at %v: %v", year, later, r.Lookup(later, "10001@"+domain))
			}
		}
		d := newDigest()
		h := auth{"ada", "pa", domain, "REGISTER", "sip:" + domain, nonceOf(d.Challenge(now, false)), "00000001", ""}.header()
		if _, v, _ := d.Verify(now.Add(time.Second), Check{"10.73.0.9", "REGISTER", "sip:" + domain, []string{h}}, password); v != Granted {
			t.Errorf("%d: credentials: %v", year, v)
		}
	}
}

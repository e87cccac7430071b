//go:build linux

package lab

import (
	"encoding/json"
	"slices"
	"testing"

	"fieldkit/firmware/lab/phone"
)

// What scripts read of `fieldkit lab --json`. More keys are welcome; these must be there, with these types, in a
// run where nothing happened too.
func TestReportHasTheKeysThatScriptsRead(t *testing.T) {
	full := Report{
		Kits: []KitReport{{NodeID: "00", Number: 101, JoinedMS: 1, RSSBytes: 1, Goroutines: 1, LED: "alone"}},
		Ring: []string{"00"},
		Calls: []CallReport{{From: "10101", To: "10201", Answered: true, SetupMS: 1, Media: []MediaReport{
			direction("10201", 7, Media{Received: 5, Lost: 2, JitterMS: 0.5, ToneOK: true}),
		}}},
	}
	document := object(t, full)
	hasKeys(t, "document", document, map[string]any{"kits": []any{}, "ring": []any{}, "calls": []any{}})
	hasKeys(t, "kit", first(t, document, "kits"), map[string]any{
		"node_id": "", "number": 0.0, "joined_ms": 0.0, "rss_bytes": 0.0, "goroutines": 0.0, "led": "",
	})
	call := first(t, document, "calls")
	hasKeys(t, "call", call, map[string]any{"from": "", "to": "", "answered": false, "setup_ms": 0.0, "media": []any{}})
	media := first(t, call, "media")
	hasKeys(t, "media", media, map[string]any{"to": "", "sent": 0.0, "received": 0.0, "lost": 0.0, "jitter_ms": 0.0, "tone_ok": false})
	for key, want := range map[string]any{"to": "10201", "sent": 7.0, "received": 5.0, "lost": 2.0, "jitter_ms": 0.5, "tone_ok": true} {
		if media[key] != want {
			t.Errorf("media: %s is %v, want %v", key, media[key], want)
		}
	}
	nothing := Report{Kits: []KitReport{}, Ring: []string{}, Calls: []CallReport{{Media: []MediaReport{}}}, Problems: []string{}}
	hasKeys(t, "call that failed", first(t, object(t, nothing), "calls"), map[string]any{"answered": false, "setup_ms": 0.0, "media": []any{}})
}

func object(t *testing.T, v any) (o map[string]any) {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(b, &o); err != nil {
		t.Fatal(err)
	}
	return o
}

func first(t *testing.T, o map[string]any, key string) map[string]any {
	t.Helper()
	list, ok := o[key].([]any)
	if !ok || len(list) == 0 {
		t.Fatalf("%s is %v", key, o[key])
	}
	return list[0].(map[string]any)
}

// hasKeys compares the types that JSON has.
func hasKeys(t *testing.T, what string, o map[string]any, want map[string]any) {
	t.Helper()
	for key, like := range want {
		v, ok := o[key]
		same := false
		switch like.(type) {
		case []any:
			_, same = v.([]any)
		case string:
			_, same = v.(string)
		case float64:
			_, same = v.(float64)
		case bool:
			_, same = v.(bool)
		}
		if !ok || !same {
			t.Errorf("%s: %q is %T %v, want a %T", what, key, v, v, like)
		}
	}
}

// The exit status hangs on it.
func TestReportWithAProblemIsNoSuccess(t *testing.T) {
	if r := (Report{Problems: []string{}}); !r.OK() {
		t.Error("a run without a problem is no success")
	}
	if r := (Report{Problems: []string{"a call was not answered"}}); r.OK() {
		t.Error("a run with a problem is a success")
	}
}

// What a phone says, event by event, as the lab understands it.
func TestPhoneEventsAreFolded(t *testing.T) {
	heard := Media{Sent: 100, Received: 90, Lost: 10, ToneOK: true}
	type step struct {
		event phone.Event
		want  PhoneState
	}
	for _, c := range []struct {
		name  string
		steps []step
	}{
		{"a call that works", []step{
			{phone.Event{Event: "registered"}, PhoneState{State: "registered", Registered: true}},
			{phone.Event{Event: "calling", Call: 1}, PhoneState{State: "calling", Registered: true, Calls: 1}},
			{phone.Event{Event: "ringing", Call: 1}, PhoneState{State: "ringing", Registered: true, Calls: 1}},
			{phone.Event{Event: "answered", Call: 1, SetupMS: 1.5}, PhoneState{State: "talking", Registered: true, Calls: 1, Setup: 1500e3}},
			{phone.Event{Event: "media", Call: 1, Media: &heard}, PhoneState{State: "talking", Registered: true, Calls: 1, Setup: 1500e3, Media: heard}},
			// Refreshed meanwhile, which is no end of the call.
			{phone.Event{Event: "registered"}, PhoneState{State: "talking", Registered: true, Calls: 1, Setup: 1500e3, Media: heard}},
			{phone.Event{Event: "ended", Call: 1}, PhoneState{State: "registered", Registered: true, Calls: 1, Ended: 1, Setup: 1500e3, Media: heard}},
			// The next call begins without what the last one left.
			{phone.Event{Event: "incoming", Call: 2}, PhoneState{State: "incoming", Registered: true, Calls: 2, Ended: 1}},
		}},
		{"a call that is refused", []step{
			{phone.Event{Event: "registered"}, PhoneState{State: "registered", Registered: true}},
			{phone.Event{Event: "calling", Call: 1}, PhoneState{State: "calling", Registered: true, Calls: 1}},
			{phone.Event{Event: "ended", Call: 1, Status: 486, Error: "busy"}, PhoneState{State: "registered", Registered: true, Calls: 1, Ended: 1, Refusal: 486, Error: "busy"}},
		}},
		{"a phone that loses its kit", []step{
			{phone.Event{Event: "registered"}, PhoneState{State: "registered", Registered: true}},
			{phone.Event{Event: "unregistered", Error: "no answer"}, PhoneState{State: "unregistered", Error: "no answer"}},
			{phone.Event{Event: "registered"}, PhoneState{State: "registered", Registered: true}},
			{phone.Event{Event: "error", Error: "no such call"}, PhoneState{State: "registered", Registered: true, Error: "no such call"}},
			{phone.Event{Event: "something newer"}, PhoneState{State: "registered", Registered: true, Error: "no such call"}},
		}},
		{"a phone that loses its kit in a call", []step{
			{phone.Event{Event: "registered"}, PhoneState{State: "registered", Registered: true}},
			{phone.Event{Event: "incoming", Call: 1}, PhoneState{State: "incoming", Registered: true, Calls: 1}},
			{phone.Event{Event: "unregistered"}, PhoneState{State: "incoming", Calls: 1}},
			{phone.Event{Event: "ended", Call: 1}, PhoneState{State: "unregistered", Calls: 1, Ended: 1}},
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			var s PhoneState
			for i, step := range c.steps {
				if s.take(step.event); s != step.want {
					t.Fatalf("after event %d, %q:\n%+v\nwant\n%+v", i, step.event.Event, s, step.want)
				}
			}
		})
	}
}

func TestKitConfigurationNamesWhatMDNSDoesNotFind(t *testing.T) {
	w, err := newLoopback(Options{Kits: 3}, "for a test")
	if err != nil {
		t.Fatal(err)
	}
	defer w.close()
	l := &Lab{opts: Options{Kits: 3}, world: w}
	if got, want := l.neighbours(1), []string{"127.0.0.1:6084", "127.0.0.1:6086"}; !slices.Equal(got, want) {
		t.Errorf("kit 2 is told of %v, want %v", got, want)
	}
}

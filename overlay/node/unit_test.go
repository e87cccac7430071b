package node

import "testing"

func TestSnake(t *testing.T) {
	for in, want := range map[string]string{"TTLExceeded": "ttl_exceeded", "BadSignature": "bad_signature", "Sent": "sent"} {
		if got := snake(in); got != want {
			t.Errorf("snake(%s) = %s, want %s", in, got, want)
		}
	}
}

// New refuses what cannot run.
func TestNewRefuses(t *testing.T) {
	if _, err := New(Config{}); err == nil {
		t.Error("an empty configuration is taken")
	}
}

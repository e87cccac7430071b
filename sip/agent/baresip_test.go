package agent

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"fieldkit/sip/registrar"
)

const baresipConfig = `sip_listen 127.0.0.1:%[2]d
poll_method epoll
audio_source aufile,%[1]s/tone.wav
audio_player aubridge,p%[2]d
audio_alert aubridge,a%[2]d
audio_channels 1-1
ausrc_srate 8000
auplay_srate 8000
rtp_ports %[3]d-%[4]d
module_path /usr/lib/baresip/modules
module g711.so
module aufile.so
module aubridge.so
module sndfile.so
module stdio.so
module_tmp uuid.so
module_app account.so
module_app menu.so
snd_path %[1]s/rec
`

// Two real phones on two kits hear each other's tone.
func TestBaresip(t *testing.T) {
	bin := program(t, "baresip")
	all := newShared()
	k1, k2 := newKit(t, all, nil), newKit(t, all, nil)
	ctx, cancel := context.WithTimeout(context.Background(), 40*time.Second)
	defer cancel()
	phone := func(k *kit, acc registrar.Account, port int, tone float64, account string, args ...string) (string, *exec.Cmd) {
		t.Helper()
		dir := t.TempDir()
		if err := os.MkdirAll(filepath.Join(dir, "rec"), 0o700); err != nil {
			t.Fatal(err)
		}
		for name, content := range map[string]string{
			"config":   fmt.Sprintf(baresipConfig, dir, port, 30000+port, 30000+port+18),
			"contacts": "",
			"accounts": fmt.Sprintf("<sip:%s@%s>;auth_user=%s;auth_pass=%s;outbound=\"sip:%s\";regint=60;audio_codecs=pcma%s\n",
				acc.Name, overlayName, acc.Name, acc.Password, k.addr, account),
			"tone.wav": string(wav(tone, 10)),
		} {
			if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		cmd := exec.CommandContext(ctx, bin, append([]string{"-f", dir}, args...)...)
		var out bytes.Buffer
		cmd.Stdout, cmd.Stderr = &out, &out
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			_ = cmd.Process.Kill()
			_ = cmd.Wait()
			if t.Failed() {
				t.Logf("%s: %.3000s", acc.Name, out.String())
			}
		})
		return dir, cmd
	}
	calleeDir, _ := phone(k2, testAccounts[1], 5281, 1000, ";answermode=auto", "-t", "30")
	registered := time.After(10 * time.Second)
	for len(k2.Snapshot().Handsets) == 0 {
		select {
		case <-registered:
			t.Fatal("baresip did not register")
		case <-time.After(20 * time.Millisecond):
		}
	}
	callerDir, caller := phone(k1, testAccounts[0], 5271, 440, "", "-t", "7", "-e", "/dial sip:10002@"+overlayName)
	if err := caller.Wait(); err != nil {
		t.Logf("caller: %v", err)
	}
	eventually(t, "the call ends on both kits", func() bool { return len(k1.Snapshot().Calls)+len(k2.Snapshot().Calls) == 0 })
	if n := k2.Snapshot().Stats.Answered; n != 1 {
		t.Fatalf("%d calls answered", n)
	}
	for _, c := range []struct {
		dir         string
		want, other float64
	}{{calleeDir, 440, 1000}, {callerDir, 1000, 440}} {
		files, _ := filepath.Glob(c.dir + "/rec/*-dec.wav")
		if len(files) == 0 {
			t.Error("nothing was recorded")
			continue
		}
		b, err := os.ReadFile(files[0])
		if err != nil {
			t.Fatal(err)
		}
		heard, crosstalk := power(b, c.want), power(b, c.other)
		t.Logf("%d bytes, %g Hz at %.3f, %g Hz at %.4f", len(b), c.want, heard, c.other, crosstalk)
		if heard < 0.05 || crosstalk > heard/20 {
			t.Errorf("the tone of %g Hz was not heard", c.want)
		}
	}
	if s := k1.Snapshot().Stats; s.Malformed+k2.Snapshot().Stats.Malformed != 0 {
		t.Errorf("messages of a real phone were refused as malformed")
	}
}

// wav is a tone of so many seconds at 8 kHz.
func wav(freq float64, seconds int) []byte {
	var data bytes.Buffer
	for i := range 8000 * seconds {
		_ = binary.Write(&data, binary.LittleEndian, int16(16000*math.Sin(2*math.Pi*freq*float64(i)/8000)))
	}
	var b bytes.Buffer
	b.WriteString("RIFF")
	for _, v := range []any{uint32(36 + data.Len()), []byte("WAVEfmt "), uint32(16), uint16(1), uint16(1), uint32(8000), uint32(16000), uint16(2), uint16(16), []byte("data"), uint32(data.Len())} {
		_ = binary.Write(&b, binary.LittleEndian, v)
	}
	b.Write(data.Bytes())
	return b.Bytes()
}

// power is the share of a frequency in a recording (Goertzel), 1 for a full tone.
func power(wav []byte, freq float64) float64 {
	i := strings.Index(string(wav), "data")
	if i < 0 || len(wav) < i+8+16000 {
		return 0
	}
	pcm := wav[i+8:]
	rate := 8000.0
	if r := binary.LittleEndian.Uint32(wav[24:]); r != 0 {
		rate = float64(r)
	}
	n := len(pcm) / 2
	k := 2 * math.Cos(2*math.Pi*freq/rate)
	var total float64
	const block = 2000
	blocks := 0
	for at := 0; at+block <= n; at += block {
		var s1, s2 float64
		for j := range block {
			x := float64(int16(binary.LittleEndian.Uint16(pcm[2*(at+j):]))) / 32768
			s1, s2 = x+k*s1-s2, s1
		}
		total += math.Sqrt(max(0, s1*s1+s2*s2-k*s1*s2)) / (block / 2)
		blocks++
	}
	return total / float64(max(blocks, 1))
}

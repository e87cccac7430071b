// Package guest is the hand that a test has inside an emulated board: the protocol on the board's second serial line,
// and the server of it that runs in the board. It runs programs there, reads and writes files, and sends signals, and
// decides nothing. The product knows nothing of it: it is put beside the product's files when a test starts a board.
//
// Messages are JSON objects, one a line. What is on the line and is none is passed over.
package guest

// Op is what to do.
type Op string

// What can be asked for.
const (
	// Run runs a program to its end and answers with its output.
	Run Op = "run"
	// Begin starts a program; its output comes as Output, its end as Exit.
	Begin Op = "begin"
	// Input writes a line to a program that was begun.
	Input Op = "input"
	// Signal sends a signal to a process.
	Signal Op = "signal"
	// Read answers with a file.
	Read Op = "read"
	// Write replaces a file.
	Write Op = "write"
)

// Request is what the host sends. Each has another ID above 0, which comes back in the answer.
type Request struct {
	ID      int      `json:"id"`
	Op      Op       `json:"op"`
	Args    []string `json:"args,omitempty"`    // of Run and Begin: the program and its arguments. One without a slash is a command of the agent itself
	Env     []string `json:"env,omitempty"`     // of Run and Begin, added to the environment
	Netns   string   `json:"netns,omitempty"`   // of Run and Begin: the file of the network namespace to run in
	Limit   float64  `json:"limit,omitempty"`   // of Run, in seconds, after which the program is killed; 0 is a minute
	Process int      `json:"process,omitempty"` // of Input: the ID of the Begin. Of Signal: the PID
	Number  int      `json:"number,omitempty"`  // of Signal
	Path    string   `json:"path,omitempty"`    // of Read and Write
	Data    []byte   `json:"data,omitempty"`    // of Input and Write
}

// Kind is what an Answer is.
type Kind string

// What the guest sends.
const (
	Hello  Kind = "hello"  // the agent runs
	Done   Kind = "done"   // a request was carried out, or could not be: then Error says why
	Output Kind = "output" // a line of what a begun program prints
	Exit   Kind = "exit"   // a begun program ended
)

// Answer is what the guest sends.
type Answer struct {
	Kind   Kind    `json:"kind"`
	ID     int     `json:"id,omitempty"`
	Data   []byte  `json:"data,omitempty"` // the file, or what the program printed: standard output and error
	PID    int     `json:"pid,omitempty"`  // of what was begun
	Code   int     `json:"code,omitempty"` // exit status; -1 for a program that was killed
	Error  string  `json:"error,omitempty"`
	Uptime float64 `json:"uptime,omitempty"` // of the kernel in seconds, with Hello
}

// Dir is where the agent's files are in the guest.
const Dir = "/emu"

// Program is the agent's file in the guest, which the kernel starts as its first process. It becomes Init when the
// agent runs beside it; where there is no Init it stays the first process.
const Program = Dir + "/agent"

// Init is what the board boots without an agent.
const Init = "/init"

// MaxMessage is how long a line may be, in bytes.
const MaxMessage = 8 << 20

// Lease is what the agent's command "dhcp" prints.
type Lease struct {
	Address string
	Mask    string
	Seconds float64
	Options map[int][]byte // by their codes, as they came (RFC 2132)
}

//go:build linux

package main

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"time"
)

// handset carries out one of the agent's own commands.
func handset(args []string) error {
	if len(args) == 0 {
		return fmt.Errorf("no command")
	}
	switch args[0] {
	case "get":
		return get(args[1:])
	}
	return fmt.Errorf("command %q: not known", args[0])
}

// get fetches a page and prints it.
func get(args []string) error {
	if len(args) != 1 {
		return fmt.Errorf("get: one address")
	}
	c := &http.Client{Timeout: 10 * time.Second}
	r, err := c.Get(args[0])
	if err != nil {
		return err
	}
	defer r.Body.Close()
	if r.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s", args[0], r.Status)
	}
	_, err = io.Copy(os.Stdout, r.Body)
	return err
}

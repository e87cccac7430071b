//go:build !linux

package main

// dispatch does nothing where no card boots.
func dispatch() {}

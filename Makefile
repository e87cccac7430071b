# The two commands: `make run` shows kits that find each other and connect phones; `make test` proves it.
SHELL := /bin/bash

.PHONY: run test image build lint fuzz soak clean help

run: ## Three kits, two phones, one call, live in this terminal until Ctrl-C
	@CGO_ENABLED=0 go build -o bin/ ./firmware/cmd/fieldkit ./firmware/cmd/fieldkitd
	@bin/fieldkit lab $(LAB)

test: ## Everything: unit, goldens, simulation, the lab with real phones, the linters
	@scripts/test

image: ## The image of the kits' cards in build/card, without root; IMAGE has more options
	@CGO_ENABLED=0 go build -o bin/ ./firmware/cmd/fieldkit
	@bin/fieldkit image $(IMAGE)

build: ## fieldkitd for every board and fieldkit for this machine, without cgo, and the sizes
	@scripts/build

lint: ## The linters alone
	@scripts/lint

fuzz: ## Each fuzz target for FUZZTIME (default 30s)
	@scripts/fuzz

soak: ## A thousand seeds of simulated overlays, for at most SOAK (default 1h), and a hundred power cuts
	@scripts/soak

clean: ## Remove what was built
	rm -rf bin build

help: ## What there is to make
	@grep -hE '^[a-z]+: ##' $(MAKEFILE_LIST) | sed 's/: ## /\t/' | expand -t 8

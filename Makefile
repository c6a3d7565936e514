# kmsfs. `make` alone lists what there is.

GO       ?= go
BIN      := bin/kmsfs
DEMO     ?= demo
FUZZTIME ?= 10s

GOFUMPT       := mvdan.cc/gofumpt@v0.12.0
GOLANGCI_LINT := github.com/golangci/golangci-lint/v2/cmd/golangci-lint@v2.15.0

SCRIPTS := .ci/run .ci/tools packaging/kmsfs.bash packaging/mount.kmsfs $(wildcard integration/*.sh integration/format1/*.sh integration/bench/*.sh integration/suites/*.sh)

.PHONY: help build test unit race fips fuzz integration demo demo-down bench bench-growth soak suites lint lint-go lint-shell tidy-check fmt clean tools

help: ## this list
	@echo 'kmsfs: directories with the encryption model of Amazon S3 and KMS'
	@echo
	@sed -n 's/^\([a-z-]*\):[^#]*## \(.*\)/  make \1	\2/p' $(MAKEFILE_LIST) | expand -t 22
	@echo
	@echo 'Start with: make demo'

build: ## the program, as bin/kmsfs
	$(GO) build -trimpath -o $(BIN) ./cmd/kmsfs

test: tools lint race fips fuzz integration ## everything: checks, unit tests with the race detector, ten seconds of fuzzing a target, real mounts

demo: tools build ## a store, two principals, buckets and keys under ./demo, mounted and ready to try
	@integration/demo.sh up $(DEMO)

demo-down: ## unmounts the demo and removes ./demo
	@integration/demo.sh down $(DEMO)

unit: ## unit tests, quickly
	$(GO) test ./...

race: ## unit tests, shuffled, with the race detector
	$(GO) test -race -shuffle=on ./...

fips: ## the program, and what has keys, with Go's FIPS 140-3 module
	GOFIPS140=v1.0.0 $(GO) build -trimpath -o /dev/null ./cmd/kmsfs
	GOFIPS140=v1.0.0 $(GO) test ./crypto/... ./fs/kv/... ./keystore/rootkey ./keystore/audit -run 'Vector|Example'

fuzz: ## every fuzz target for FUZZTIME (10s)
	@integration/fuzz.sh $(FUZZTIME)

integration: build ## shell tests against real mounts; ONLY="t_sse t_tree" picks some
	@integration/run.sh $(ONLY)

bench: build ## kmsfs beside gocryptfs, securefs, a plain FUSE loopback and the bare disk; WRITE=1 puts the table into docs/performance.md
	@.ci/tools bench
	@integration/bench/bench.sh

soak: build ## hours: kills under load and the model test for MINUTES (10) each, LIFE (60) minutes, KILLS, CUTS, a store tampered with byte by byte, every suite, growth, fuzzing for SOAKFUZZ (30m)
	@.ci/tools soak
	@integration/soak.sh $${MINUTES:-10}
	KMSFS_MODEL_TIME=$${MINUTES:-10}m $(GO) test -count=1 -timeout 0 ./integration/model
	KMSFS_LIFE_MINUTES=$${LIFE:-60} KMSFS_CRASH_ROUNDS=$${KILLS:-2000} KMSFS_POWER_ROUNDS=$${CUTS:-200} KMSFS_RESTARTS=100 KMSFS_FAULTS=-1 \
		$(GO) test -count=1 -timeout 0 ./integration/crash
	KMSFS_SOAK=1 $(GO) test -count=1 -timeout 0 ./mount/fusefs
	KMSFS_TAMPER_CASES=-1 $(GO) test -count=1 -timeout 0 -run TestTamperedStore ./cmd/kmsfs
	@integration/suites.sh
	@integration/bench/growth.sh
	@integration/fuzz.sh $${SOAKFUZZ:-30m}

suites: build ## fio, stress-ng, dbench, git's, SQLite's and libfuse's own tests at full length; ONLY="git sqlite" picks some
	@.ci/tools soak
	@integration/suites.sh $(ONLY)

bench-growth: build ## rates, mount, memory and room with 1,000,000 files and a big file written at random
	@.ci/tools bench
	@integration/bench/growth.sh

lint: lint-shell tidy-check lint-go ## formatting, vet, linters, tidy go.mod, shell scripts

lint-go:
	@out=$$(git ls-files -z '*.go' | xargs -0 $(GO) run $(GOFUMPT) -l) && { [ -z "$$out" ] || { echo "not gofumpt-formatted (make fmt):"; echo "$$out"; exit 1; }; }
	$(GO) vet ./...
	$(GO) run $(GOLANGCI_LINT) run --allow-parallel-runners ./...

lint-shell:
	shellcheck $(SCRIPTS)
	shfmt -d -i 2 -ci $(SCRIPTS)

tidy-check:
	$(GO) mod tidy -diff

fmt: ## format Go and shell
	git ls-files -z '*.go' | xargs -0 $(GO) run $(GOFUMPT) -w
	shfmt -w -i 2 -ci $(SCRIPTS)

tools: ## apt-get what the tests call and this machine lacks
	@.ci/tools test

clean: ## what was built
	rm -rf bin kmsfs
	$(GO) clean -testcache

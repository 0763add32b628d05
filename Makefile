# The commands of hotcell. `make` alone lists them. Logic belongs into tools/ and tests.
export PATH := $(CURDIR)/.tools/venv/bin:$(PATH)
BIN := $(or $(CARGO_TARGET_DIR),target)/release
SHELL := /bin/bash

help: ## list the commands
	@sed -n 's/^\([a-z0-9]*\):.*## /\1\t/p' Makefile | expand -t 8

demo: setup build ## set up, build, run one clip through everything, show its timeline
	.tools/venv/bin/python tools/demo.py --bin $(BIN)

test: setup ## set up and run every test, then every fuzz target for a minute
	cargo build --workspace --bins --tests --locked
	cargo nextest run --workspace --locked
	tools/fuzz

check: setup ## before a commit: format, lints, unit and golden tests, dependencies, docs
	cargo fmt --check
	cargo fmt --check --manifest-path fuzz/Cargo.toml
	cargo deny --offline check bans licenses sources
	tools/proofs.py --check
	cargo clippy --workspace --all-targets --locked -- -D warnings
	cargo nextest run --workspace --locked --lib --bins --test golden --test routes --test tidy

e2e: setup ## before a merge: the tests of the whole
	cargo build --workspace --bins --tests --locked
	cargo nextest run --locked -p hotcell-e2e

up: setup build ## start everything on this machine; Ctrl-C ends it
	$(BIN)/hotcell up

build: ## release programs; the launcher of cells is static, so that no library of the host's is part of it
	cargo build --workspace --bins --release --locked
	cargo rustc --release --locked -p hotcell-jail --bin hotcell-jail -- -C target-feature=+crt-static
	! readelf --program-headers $(BIN)/hotcell-jail | grep INTERP

bench: setup build ## the numbers, into loadtest/results (20 minutes)
	cargo bench --locked -p hotcell-schemas --bench envelope
	cargo bench --locked -p hotcell-policy --bench decide
	cargo bench --locked -p hotcell-intake --bench auth
	$(BIN)/loadtest all

fuzz: setup ## every fuzz target for FUZZ_SECS seconds (60), two at once; part of `make test`
	tools/fuzz

docs: ## rewrite the pages that are made from code
	UPDATE_GOLDEN=1 cargo test --locked -p hotcell-schemas --test golden
	tools/proofs.py

ffmpeg: ## build our own FFmpeg into .tools/ffmpeg: static, hardened, only what plans name (3 minutes)
	tools/ffmpeg

setup: ## install what the above need: both say what; the second builds FFmpeg once (3 minutes)
	tools/setup
	tools/ffmpeg

.PHONY: help demo test check e2e up build bench fuzz docs ffmpeg setup

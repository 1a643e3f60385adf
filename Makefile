# Two commands do all the set-up: `make demo` and `make test`.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.PHONY: help build install uninstall demo test figures lint fuzz dist dist-test compose-test chaos chaos-matrix chaos-sabotage upgrade-test bench bench-stage bench-latency bench-fetching bench-mix bench-http bench-flood bench-scale bench-steps label-studio-test

ROUNDS ?= 20
SEED ?= 1
BROKERS ?= 3
MATRIX ?= full
PREFIX ?= /usr/local
IMAGES ?= 8000
FUZZ_SECONDS ?= 7200
# Where nobody sits before it, the demonstration ends by itself.
SERVE ?= $(shell test -t 0 && echo --serve)
FROM ?= 46e3ef7

chaos = @setup=$$(scripts/setup.sh test); eval "$$setup"; cargo test --release --locked --features failpoints --test chaos --

help: ## Show what there is
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | column -t -s "$$(printf '\t')"

build: ## Install what is missing and build the binary (target/release/tagstream)
	@scripts/setup.sh build >/dev/null
	cargo build --release --locked

install: build ## PREFIX=/usr/local: binary, ONNX Runtime's library, configurations, demo model
	@PREFIX=$(PREFIX) scripts/install.sh

uninstall: ## PREFIX=/usr/local: remove what `make install` put there
	@PREFIX=$(PREFIX) scripts/install.sh --remove

demo: ## The whole loop on an embedded broker and the bundled demo model; ends on its pages (SERVE= for a run that ends)
	@setup=$$(scripts/setup.sh build); eval "$$setup"; cargo build --release --locked; \
	cargo run --release --locked --quiet -- demo --images $(IMAGES) --out demo-out $(SERVE)

test: ## Install what is missing and run all tests, those on a real Kafka and a real S3 server too
	@scripts/test.sh

figures: ## Write the documents' figures, tables and plot from benches/
	@scripts/figures.py

lint: ## Formatting, clippy, rustdoc, licences, sources, and what the documents say
	@scripts/lint.sh

fuzz: ## FUZZ_SECONDS=7200 for each target: libFuzzer, with caps on memory and time
	@scripts/fuzz.sh $(FUZZ_SECONDS)

dist: ## dist/: archive, Python wheel, list of components, checksums (x86-64, glibc 2.28 or newer)
	@setup=$$(scripts/setup.sh build); eval "$$setup"; scripts/dist.sh build; scripts/dist.sh pack

dist-test: ## What is in dist/ on a clean Debian root: without Python, and with nothing else (as root)
	@scripts/dist_test.sh

compose-test: ## docker-compose.yml on podman, of the archive that `make dist` made: pictures in, Parquet and a promotion out
	@scripts/compose_test.sh

chaos: ## ROUNDS=n SEED=s BROKERS=1|3: faults on real servers, and an independent checker
	$(chaos) --rounds $(ROUNDS) --seed $(SEED) --brokers $(BROKERS) --log benches/runs/chaos.jsonl

chaos-matrix: ## MATRIX=full|short SEED=s: every step of the stage x kill, term, error, hang, on real servers
	$(chaos) --matrix $(MATRIX) --seed $(SEED) --brokers 1 --partitions 2

chaos-sabotage: ## ROUNDS=n SEED=s: the protocol broken on purpose in two ways; the checker must find both
	$(chaos) --rounds $(ROUNDS) --seed $(SEED) --brokers 1 --partitions 4 --expect-broken \
		--failpoints sabotage.put.overwrite=on --only FrozenPut
	$(chaos) --rounds $(ROUNDS) --seed $(SEED) --brokers 1 --partitions 4 --expect-broken \
		--failpoints sabotage.commit.early=on,put.before=delay1500,sabotage.resume.trust=on --only Kill

upgrade-test: ## FROM=46e3ef7: a group of that build is replaced by this one under load, and back
	@scripts/upgrade_test.sh $(FROM)

label-studio-test: ## A real Label Studio from PyPI: takes the tasks, asks the model, sends its webhook, is exported
	@setup=$$(scripts/setup.sh build); eval "$$setup"; studio=$$(scripts/label_studio.sh); eval "$$studio"; \
	cargo test --locked --features failpoints --test e2e real_label_studio -- --nocapture

bench: bench-mix bench-stage bench-latency bench-fetching ## All that speed is measured by, one after the other, about an hour; rows in benches/runs/

bench-stage: ## The stage beside bare ONNX Runtime and a Python peer (KAFKA=1: on a real broker), rows in benches/runs/stage.jsonl
	@setup=$$(scripts/setup.sh build); eval "$$setup"; cargo build --release --locked; scripts/bench.sh

bench-latency: ## From the append to the received prediction at 5, 30, 70 % load, stage and peer, real Kafka, slow fetches
	@setup=$$(scripts/setup.sh build); eval "$$setup"; cargo build --release --locked; benches/stream/run.sh latency

bench-fetching: ## Images a second over HTTP and S3 with answer times of 5, 20, 100 ms, rows in benches/runs/fetching.jsonl
	@setup=$$(scripts/setup.sh build); eval "$$setup"; cargo build --release --locked; benches/stream/run.sh fetching

bench-mix: ## Decoding by kind of picture, beside OpenCV, simplejpeg, pyvips and Pillow, rows in benches/runs/mix.jsonl
	@setup=$$(scripts/setup.sh build); eval "$$setup"; benches/mix/run.sh $(MIX)

bench-http: ## The model over HTTP beside the bare model, rows in benches/runs/http.jsonl
	@setup=$$(scripts/setup.sh build); eval "$$setup"; cargo build --release --locked; HTTP=1 scripts/bench.sh

bench-flood: ## FLOOD=arguments: garbage at the ports of stage and pages, what it costs; rows in benches/runs/flood.jsonl
	@setup=$$(scripts/setup.sh test); eval "$$setup"; cargo build --release --locked; \
	python3 benches/flood.py --binary target/release/tagstream --log benches/runs/flood.jsonl $(FLOOD)

bench-scale: ## Cost of an image as categories, embedding, partitions and files grow, rows in benches/runs/scale.jsonl
	@setup=$$(scripts/setup.sh build); eval "$$setup"; cargo build --release --locked; scripts/bench_scale.sh

bench-steps: ## Criterion benches of single steps
	@setup=$$(scripts/setup.sh build); eval "$$setup"; cargo bench --locked

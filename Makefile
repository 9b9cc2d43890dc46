# make demo   from a clone to a search: build, fetch encoders, train, evaluate, index, search
# make test   all tests
# make lab    every method on the same small real data, three seeds (needs BIFOCAL_DATA, see docs/lab.md)

BIFOCAL ?= target/release/bifocal

.PHONY: demo test lab build encoders lint

demo: build encoders
	@BIFOCAL=$(BIFOCAL) scripts/demo.sh

build:
	cargo build --release --locked

# Tests run optimised: tests of numbers are slow otherwise, and the demo has built the dependencies already.
test:
	@test -n "$$BIFOCAL_MODELS" || echo "BIFOCAL_MODELS is not set: tests on real encoders are skipped (see CONTRIBUTING.md)"
	@test -n "$$BIFOCAL_DATA" || echo "BIFOCAL_DATA is not set: tests on data that is not shipped are skipped (see CONTRIBUTING.md)"
	@if cargo nextest --version >/dev/null 2>&1; then \
		cargo nextest run --release --locked --workspace; \
	else \
		cargo test --release --locked --workspace; \
	fi

lab: build
	@python3 scripts/fetch-encoders.py all
	$(BIFOCAL) lab

encoders:
	@python3 scripts/fetch-encoders.py efficientnet-lite0 gemma3

lint:
	cargo fmt --all --check
	cargo clippy --release --locked --workspace --all-targets -- -D warnings

#!/usr/bin/env bash
# Twenty SIGKILLs at random moments of a run of each method; each run must end with the bits of the unbroken one.
# Prints how many kills fell into the writing of a checkpoint. BIFOCAL_KILLS: another number; BIFOCAL_KILL_SEED: as before.
set -euo pipefail
cd "$(dirname "$0")/.."

export BIFOCAL_KILLS=${BIFOCAL_KILLS:-20}
cargo test --release --locked --workspace --test kills "$@" -- --nocapture --test-threads 2

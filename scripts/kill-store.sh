#!/usr/bin/env bash
# Five hundred SIGKILLs at random moments of a process that adds, replaces, deletes and merges; after each, every acknowledged item must be
# found and nothing else. BIFOCAL_KILLS: another number.
set -euo pipefail
cd "$(dirname "$0")/.."

export BIFOCAL_KILLS=${BIFOCAL_KILLS:-500}
cargo test --release --locked --workspace --test store "$@" -- --nocapture crash::acknowledged_calls

#!/usr/bin/env bash
# Licences, sources and known vulnerabilities of all dependencies, and their number (at most 350 with default features).
set -euo pipefail
cd "$(dirname "$0")/.."

crates=$(cargo tree --locked -p bifocal -e normal,build --prefix none --format '{p}' | awk '{print $1, $2}' | sort -u | wc -l)
echo "crates with default features: $crates"
((crates < 350)) || { echo "error: more than 350 crates" >&2; exit 1; }

cargo deny --version >/dev/null 2>&1 || cargo install --locked --debug cargo-deny # built in half the time, and fast enough
cargo deny --locked check licenses bans sources
# The advisory database is fetched from its public repository. Where that cannot be reached, nothing is known, and that is said;
# a finding is a failure wherever it is made.
if log=$(cargo deny --locked check advisories 2>&1); then
    echo "$log" | tail -1
elif grep -q 'failed to fetch advisory database' <<<"$log"; then
    echo "advisories: NOT CHECKED, the advisory database cannot be reached from here"
else
    echo "$log" >&2
    exit 1
fi

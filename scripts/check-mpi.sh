#!/usr/bin/env bash
# Several processes: installs an MPI on Debian or Ubuntu where there is none, builds with it and runs the tests that start mpirun.
set -euo pipefail
cd "$(dirname "$0")/.."

if ! command -v mpirun >/dev/null || ! command -v mpicc >/dev/null || ! ls /usr/lib/llvm-*/lib/libclang*.so* >/dev/null 2>&1; then
    sudo=$([[ $(id -u) == 0 ]] || echo sudo)
    $sudo apt-get update
    $sudo apt-get install -y --no-install-recommends openmpi-bin libopenmpi-dev libclang-dev
fi
cargo clippy --release --locked --workspace --all-targets --features bifocal/mpi -- -D warnings
cargo test --release --locked --workspace --features bifocal/mpi --test mpi --test ranks -- --nocapture

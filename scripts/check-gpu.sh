#!/usr/bin/env bash
# The path of graphics cards, without one: installs Mesa's Vulkan driver that computes on the processor where no driver is (Debian, Ubuntu), builds with the feature
# `gpu` and compares with the CPU: every operation forward and backward, optimizers, and a step of every stage of every method. With a card, it is compared.
set -euo pipefail
cd "$(dirname "$0")/.."

if ! ls /usr/share/vulkan/icd.d/*.json /etc/vulkan/icd.d/*.json >/dev/null 2>&1; then
    sudo=$([[ $(id -u) == 0 ]] || echo sudo)
    $sudo apt-get update
    $sudo apt-get install -y --no-install-recommends mesa-vulkan-drivers libvulkan1
fi
# licences of what comes in with the feature
if cargo deny --version >/dev/null 2>&1; then
    cargo deny --locked --features gpu,metal,cuda,rocm check licenses bans sources
fi
cargo test --release --locked -p bifocal-nn -p bifocal-align --features bifocal-nn/gpu,bifocal-align/gpu --test fused --test pairs --test gpu --no-run
clock=$SECONDS
cargo test --release --locked -p bifocal-nn -p bifocal-align --features bifocal-nn/gpu,bifocal-align/gpu --test fused --test pairs --test gpu -- --nocapture --test-threads 1
echo "compared in $((SECONDS - clock)) s"

#!/usr/bin/env python3
"""ViT-B/32 beside PyTorch eager: forward and training step, in one run.

    cargo build --release --example vit_b32
    python benches/compare/vit_b32.py [--rounds 9] [--batch 32] [--threads 2] [--precision f32] [--checkpoint]

Needs torch and open_clip (pip install torch open_clip_torch). Both sides get the same weights and the same pictures; they take turns, so
that a change of the machine's speed hits both; medians and the ratio of each pair are printed, after the outputs and the losses were compared.
With `--precision bf16` products are of bf16 numbers with f32 sums and f32 weights: `torch.autocast` there.
"Of peak" is the whole network's operations over what multiply-adds in registers reach in f32 on the same threads, measured beside each pair.
A training step is forward, contrastive loss against fixed text features, backward and AdamW (PyTorch's fused one).
"""
import argparse
import os
import pathlib
import statistics
import subprocess
import tempfile
import time

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--rounds", type=int, default=9)
parser.add_argument("--batch", type=int, default=32)
parser.add_argument("--threads", type=int, default=2)
parser.add_argument("--precision", choices=("f32", "bf16"), default="f32")
parser.add_argument("--checkpoint", action="store_true", help="drop activations, on our side alone")
parser.add_argument("--worker", default="target/release/examples/vit_b32")
args = parser.parse_args()
for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "RAYON_NUM_THREADS"):
    os.environ[name] = str(args.threads)

import numpy as np  # noqa: E402  (threads are read at import)
import open_clip  # noqa: E402
import torch  # noqa: E402
import torch.nn.functional as F  # noqa: E402
from safetensors.torch import save_file  # noqa: E402

torch.set_num_threads(args.threads)
torch.manual_seed(0)
cast = lambda: torch.autocast("cpu", torch.bfloat16, enabled=args.precision == "bf16")  # noqa: E731
LR, DECAY, STEPS = 1e-4, 0.2, 4


class Bifocal:
    """The other side: a process that answers one line with one line."""

    def __init__(self, folder):
        self.process = subprocess.Popen([args.worker, str(folder), args.precision, "checkpoint" if args.checkpoint else "keep"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout.readline().strip() == "ready"

    def ask(self, command):
        self.process.stdin.write(command + "\n")
        self.process.stdin.flush()
        return [float(x) for x in self.process.stdout.readline().split()]

    def peak_mib(self):
        with open(f"/proc/{self.process.pid}/status") as status:
            return next(int(line.split()[1]) for line in status if line.startswith("VmHWM")) / 1024


def rate(seconds):
    return args.batch / statistics.median(seconds)


def row(name, ours, theirs, peaks, operations):
    ratios = sorted(t / o for o, t in zip(ours, theirs))
    shares = [statistics.median(operations / s / p for s, p in zip(side, peaks)) for side in (ours, theirs)]
    quarter = len(ratios) // 4
    print(
        f"| {name} | {rate(ours):.1f} | {rate(theirs):.1f} | {statistics.median(ratios):.2f} | {ratios[quarter]:.2f}–{ratios[-1 - quarter]:.2f}"
        f" | {100 * shares[0]:.0f} % | {100 * shares[1]:.0f} % |"
    )


# Of all layers on all tokens; ours leaves out what the last block would do for tokens that nobody reads.
FORWARD_FLOPS = 2 * args.batch * (49 * 3072 * 768 + 12 * (50 * 12 * 768 * 768 + 2 * 50 * 50 * 768) + 768 * 512)


with tempfile.TemporaryDirectory() as temporary:
    folder = pathlib.Path(temporary)
    visual = open_clip.create_model("ViT-B-32", pretrained=None, precision="fp32").visual
    images = torch.randn(args.batch, 3, 224, 224)
    texts = F.normalize(torch.randn(args.batch, 512), dim=-1)
    save_file({f"visual.{k}": v.contiguous() for k, v in visual.state_dict().items()}, folder / "model.safetensors")
    images.permute(0, 2, 3, 1).contiguous().numpy().tofile(folder / "images.f32")
    texts.numpy().tofile(folder / "texts.f32")
    ours = Bifocal(folder)

    def forward():
        start = time.perf_counter()
        with torch.inference_mode(), cast():
            out = visual(images)
        return time.perf_counter() - start, out

    optimizer = torch.optim.AdamW(visual.parameters(), lr=LR, betas=(0.9, 0.98), eps=1e-6, weight_decay=DECAY, fused=True)

    def train():
        start = time.perf_counter()
        optimizer.zero_grad(set_to_none=True)
        with cast():
            features = visual(images)
        logits = F.normalize(features.float(), dim=-1) @ texts.T / 0.07
        target = torch.arange(args.batch)
        loss = (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2
        loss.backward()
        optimizer.step()
        return time.perf_counter() - start, loss.item()

    # The same numbers first: a fast wrong answer is worth nothing.
    visual.eval()
    _, expected = forward()
    ours.ask("dump")
    got = np.fromfile(folder / "out.f32", dtype=np.float32).reshape(args.batch, 512)
    wanted = expected.float().numpy()
    cosine = (got * wanted).sum(-1) / np.linalg.norm(got, axis=-1) / np.linalg.norm(wanted, axis=-1)
    print(f"largest difference of an output: {np.abs(got - wanted).max():.1e}, smallest cosine {cosine.min():.6f}")
    visual.train()
    losses = [(train()[1], ours.ask("train")[1]) for _ in range(STEPS)]
    print("losses:", ", ".join(f"{t:.5f} / {o:.5f}" for t, o in losses), "(PyTorch / Bifocal)")

    def measure(name, theirs):
        times = [], [], []
        for i in range(args.rounds):
            turns = [lambda: times[0].append(ours.ask(name)[0]), lambda: times[1].append(theirs()[0])]
            for turn in turns if i % 2 else reversed(turns):
                turn()
            times[2].append(ours.ask("peak")[0])
        return times

    # The first passes of a model are slower on either side: memory is asked for, weights are packed.
    for _ in range(3):
        ours.ask("forward"), forward()
    times = {"forward": measure("forward", forward), "train": measure("train", train)}
    print(f"\nViT-B/32, {args.precision}, batch {args.batch}, {args.threads} threads, {args.rounds} rounds, PyTorch {torch.__version__}")
    print("\n| | Bifocal img/s | PyTorch img/s | ratio (median) | quartiles | Bifocal of peak | PyTorch of peak |\n|---|---|---|---|---|---|---|")
    row("forward", *times["forward"], FORWARD_FLOPS)
    row("training step", *times["train"], 3 * FORWARD_FLOPS)
    with open("/proc/self/status") as status:
        torch_peak = next(int(line.split()[1]) for line in status if line.startswith("VmHWM")) / 1024
    print(f"| peak memory, MiB | {ours.peak_mib():.0f} | {torch_peak:.0f} | | | | |")
    ours.process.stdin.close()

#!/usr/bin/env python3
"""InfoNCE over many pairs, value and gradients, beside PyTorch: time and memory. Each side is a process of its own, so that memory is the loss' alone."""
import sys
import time

import side

args = side.arguments(__doc__, pairs={"type": int, "default": 16384}, width={"type": int, "default": 512}, peer={"action": "store_true", "help": "be the other process"})

import torch  # noqa: E402  (threads are read at import)
import torch.nn.functional as F  # noqa: E402

torch.set_num_threads(args.threads)


def theirs():
    """Answers as our process does."""
    torch.manual_seed(5)
    images = F.normalize(torch.randn(args.pairs, args.width), dim=-1)
    texts = F.normalize(torch.randn(args.pairs, args.width) + 0.3 * args.width**0.5 * images, dim=-1)
    target, scale = torch.arange(args.pairs), torch.tensor(50.0, requires_grad=True)

    def step(x, y):
        logits = scale * x @ y.T
        loss = (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2
        loss.backward()
        return loss.item()

    print("ready", flush=True)
    for _ in sys.stdin:  # "step" is all that is asked
        start = time.perf_counter()
        value = step(images.clone().requires_grad_(), texts.clone().requires_grad_())
        print(time.perf_counter() - start, value, flush=True)


if args.peer:
    theirs()
    raise SystemExit
name = f"InfoNCE, {args.pairs} × {args.width}, forward and backward"
table = side.Table(args)
if table.wants(name):
    ours = side.ours(args, "loss", "infonce", str(args.pairs), str(args.width))
    peer = side.Process(sys.executable, __file__, "--peer", "--pairs", args.pairs, "--width", args.width, "--threads", args.threads)
    before = ours.peak_mib(), peer.peak_mib()
    # four products of all pairs: similarities in value and gradient, and both gradients
    table.row(name, "times/s", 1, ours.turn("step"), {"PyTorch": peer.turn("step")}, 1.0, 4 * 2 * args.pairs**2 * args.width, ours.peak)
    grown = ours.peak_mib() - before[0], peer.peak_mib() - before[1]
    table.add({"work": f"memory of that ({name})", "unit": "MiB", "goal": "≤ 0.2", "peer": "PyTorch", "ours": grown[0], "theirs": grown[1], "ratio": grown[0] / grown[1],
               "quartiles": [grown[0] / grown[1]] * 2, "share": None, "note": "beyond what each process held before", "others": {}})
    ours.close(), peer.close()

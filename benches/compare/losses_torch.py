#!/usr/bin/env python3
"""InfoNCE over many pairs, value and gradients, beside PyTorch: time and memory. Each side is a process of its own, so that memory is the loss' alone."""
import sys

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
    for line in sys.stdin:
        value = 0.0
        turn = side.timed(lambda: step(images.clone().requires_grad_(), texts.clone().requires_grad_()))
        seconds = turn() if line.strip() == "step" else 0.0
        print(seconds, value, flush=True)


if args.peer:
    theirs()
    raise SystemExit
name = f"InfoNCE, {args.pairs} × {args.width}, forward and backward"
table = side.Table(args)
if table.wants(name):
    ours = side.Ours(args, "loss", "infonce", str(args.pairs), str(args.width))
    command = [sys.executable, __file__, "--peer", "--pairs", str(args.pairs), "--width", str(args.width), "--threads", str(args.threads)]
    peer = side.Ours.__new__(side.Ours)
    peer.process = side.subprocess.Popen(command, stdin=side.subprocess.PIPE, stdout=side.subprocess.PIPE, text=True)
    assert peer.process.stdout.readline().strip() == "ready"
    before = ours.peak_mib(), peer.peak_mib()
    # four products of all pairs: similarities in value and gradient, and both gradients
    table.row(name, "times/s", 1, ours.turn("step"), {"PyTorch": peer.turn("step")}, 1.0, 4 * 2 * args.pairs**2 * args.width, lambda: ours.ask("peak")[1])
    grown = ours.peak_mib() - before[0], peer.peak_mib() - before[1]
    table.add({"work": f"memory of that ({name})", "unit": "MiB", "goal": "≤ 0.2", "peer": "PyTorch", "ours": grown[0], "theirs": grown[1], "ratio": grown[0] / grown[1],
               "quartiles": [grown[0] / grown[1]] * 2, "share": None, "note": "beyond what each process held before", "others": {}})
    ours.close(), peer.close()

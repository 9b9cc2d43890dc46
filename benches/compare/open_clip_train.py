#!/usr/bin/env python3
"""A training step of CLIP ViT-B/32 beside PyTorch: both towers, contrastive loss, backward, AdamW (PyTorch's fused one), and the memory of both processes.

Both have the same random weights, pictures and captions; the losses of the first steps are compared, and the memory of both is that after these. PyTorch runs as it
comes and, at batches of at most 32, compiled. With `--precision bf16` products are of bf16 numbers with f32 sums and f32
weights: `torch.autocast` there. `--texts rows` leaves the text tower out and learns pictures against fixed rows of texts; `--texts adaptor` is an epoch of LLM2CLIP's second stage:
the vision tower and an adaptor of four blocks over what a frozen language model of SmolLM2's width once said of 128 captions.
"""
import itertools

import side

args = side.arguments(
    __doc__, batch={"type": int, "default": 32}, precision={"choices": ("f32", "bf16"), "default": "f32"}, texts={"choices": ("tower", "rows", "adaptor"), "default": "tower"},
    checkpoint={"action": "store_true", "help": "drop activations, on our side alone"},
)

import open_clip  # noqa: E402  (threads are read at import)
import torch  # noqa: E402
import torch.nn.functional as F  # noqa: E402
from safetensors.torch import save_file  # noqa: E402

import clip_folder  # noqa: E402


class Adaptor(torch.nn.Module):
    """x + W₂·GELU(W₁·norm(x)), a few times, then norm and a layer into the joint space."""

    def __init__(self):
        super().__init__()
        self.blocks = torch.nn.ModuleList(
            torch.nn.ModuleDict({"norm": torch.nn.LayerNorm(WIDTH), "fc": torch.nn.Linear(WIDTH, 2 * WIDTH), "proj": torch.nn.Linear(2 * WIDTH, WIDTH)}) for _ in range(BLOCKS)
        )
        self.norm, self.out = torch.nn.LayerNorm(WIDTH), torch.nn.Linear(WIDTH, 512)

    def forward(self, x):
        for block in self.blocks:
            x = x + block["proj"](F.gelu(block["fc"](block["norm"](x))))
        return self.out(self.norm(x))


torch.set_num_threads(args.threads)
torch.manual_seed(0)
STEPS = 3 if args.batch <= 128 else 2
# Large batches of both sides fit the memory of one machine only when each gives its own back while the other has its turn, which costs ours some time.
SHARED = {"MIMALLOC_PURGE_DELAY": "1000"} if args.batch > 128 else {}
WIDTH, BLOCKS, EPOCH = 576, 4, 128
cached = args.texts == "adaptor"
# pictures that both sides have, and steps of a turn
pictures = EPOCH if cached else args.batch
turns = pictures // args.batch
what = {"tower": "training step, both towers", "rows": "training step, pictures alone", "adaptor": f"epoch of {EPOCH} pairs, LLM2CLIP with cached features of texts"}[args.texts]
name = f"{what}, batch {args.batch}, {args.precision}"
table = side.Table(args)
if not table.wants(name):
    raise SystemExit
with side.folder() as temporary:
    folder = side.pathlib.Path(temporary)
    model, _ = clip_folder.write(folder / "model")
    model.train()
    images = torch.randn(pictures, 3, 224, 224)
    texts = torch.randn(pictures, WIDTH) if cached else F.normalize(torch.randn(pictures, 512), dim=-1)
    images.permute(0, 2, 3, 1).contiguous().numpy().tofile(folder / "images.f32")
    texts.numpy().tofile(folder / "texts.f32")
    lines = side.captions(args, 5 * args.batch)[::5]
    (folder / "lines.txt").write_text("".join(f"{line}\n" for line in lines))
    tokens = open_clip.get_tokenizer("ViT-B-32")(lines)
    adaptor = Adaptor() if cached else None
    if cached:
        save_file(adaptor.state_dict(), folder / "adaptor.safetensors")
    ours = side.ours(args, "train", folder / "model", folder, args.batch, args.precision, args.texts, "checkpoint" if args.checkpoint else "keep", **SHARED)
    learning = [value for key, value in model.named_parameters() if key != "logit_scale" and (key.startswith("visual.") or args.texts == "tower")]
    learning += adaptor.parameters() if cached else []
    optimizer = torch.optim.AdamW(learning, lr=1e-4, betas=(0.9, 0.98), eps=1e-6, weight_decay=0.2, fused=True)

    batches = itertools.cycle(zip(images.split(args.batch), texts.split(args.batch)))

    def encode(pixels, rows):
        seen = model.encode_image(pixels)
        return seen, {"tower": lambda: model.encode_text(tokens), "rows": lambda: rows, "adaptor": lambda: adaptor(rows)}[args.texts]()

    def step(encode=encode):
        pixels, rows = next(batches)
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast("cpu", torch.bfloat16, enabled=args.precision == "bf16"):
            seen, read = encode(pixels, rows)
        logits = F.normalize(seen.float(), dim=-1) @ F.normalize(read.float(), dim=-1).T / 0.07
        target = torch.arange(args.batch)
        loss = (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2
        loss.backward()
        optimizer.step()
        return loss.item()

    losses = [(ours.ask("step")[1], step()) for _ in range(max(STEPS, turns))]
    memory = ours.peak_mib(), side.peak_mib()
    worst = max(abs(a - b) / abs(b) for a, b in losses)
    if not worst < (1e-3 if args.precision == "f32" else 3e-2):
        raise SystemExit(f"{name}: losses differ: {losses}")
    before = ours.page_faults()
    ours.ask("step"), ours.ask("step")
    note = f"losses within {worst:.0e}; {(ours.page_faults() - before) / 2:.0f} page faults a step of ours"
    goal = 1.5 if args.precision == "f32" or cached else 1.3
    peer = "PyTorch" if args.precision == "f32" else "PyTorch, autocast"
    peers = {peer: side.timed(lambda: [step() for _ in range(turns)])}
    if args.batch <= 32:
        compiled = torch.compile(encode)
        peers[f"{peer}, compiled"] = side.timed(lambda: [step(compiled) for _ in range(turns)])
    # forward and twice as much backward, but for gradients of pixels; texts without their padding
    read = {"tower": lambda: side.products(model.transformer, int((tokens.argmax(-1) + 1).sum())), "rows": lambda: 0, "adaptor": lambda: side.products(adaptor, pictures)}[args.texts]()
    flops = pictures * (3 * clip_folder.IMAGE - clip_folder.PATCHES) + 3 * read
    rounds = args.rounds if args.batch <= 128 else min(args.rounds, 3)
    table.row(name, "pairs/s", pictures, lambda: sum(ours.ask("step")[0] for _ in range(turns)), peers, goal, flops, ours.peak, note, rounds)
    table.add({"work": f"memory of that ({name})", "unit": "MiB", "goal": "≤ 0.7", "peer": "PyTorch", "ours": memory[0], "theirs": memory[1], "ratio": memory[0] / memory[1],
               "quartiles": [memory[0] / memory[1]] * 2, "share": None, "note": "", "others": {}})
    ours.close()

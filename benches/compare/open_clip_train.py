#!/usr/bin/env python3
"""A training step of CLIP ViT-B/32 beside PyTorch: both towers, contrastive loss, backward, AdamW (PyTorch's fused one), and the memory of both processes.

Both have the same random weights, pictures and captions; the losses of the first steps are compared. With `--precision bf16` products are of bf16 numbers with f32 sums and f32
weights: `torch.autocast` there. `--image-only` leaves the text tower out and learns pictures against fixed rows of texts, as methods with a frozen language model do.
"""
import side

args = side.arguments(
    __doc__, batch={"type": int, "default": 32}, precision={"choices": ("f32", "bf16"), "default": "f32"}, **{"image-only": {"action": "store_true"}},
    checkpoint={"action": "store_true", "help": "drop activations, on our side alone"},
)

import open_clip  # noqa: E402  (threads are read at import)
import torch  # noqa: E402
import torch.nn.functional as F  # noqa: E402

import clip_folder  # noqa: E402

torch.set_num_threads(args.threads)
torch.manual_seed(0)
STEPS = 3
name = f"training step, {'pictures alone' if args.image_only else 'both towers'}, batch {args.batch}, {args.precision}"
table = side.Table(args)
if not table.wants(name):
    raise SystemExit
with side.folder() as temporary:
    folder = side.pathlib.Path(temporary)
    model, _ = clip_folder.write(folder / "model")
    model.train()
    images, texts = torch.randn(args.batch, 3, 224, 224), F.normalize(torch.randn(args.batch, 512), dim=-1)
    images.permute(0, 2, 3, 1).contiguous().numpy().tofile(folder / "images.f32")
    texts.numpy().tofile(folder / "texts.f32")
    lines = side.captions(args, 5 * args.batch)[::5]
    (folder / "lines.txt").write_text("".join(f"{line}\n" for line in lines))
    tokens = open_clip.get_tokenizer("ViT-B-32")(lines)
    ours = side.ours(args, "train", folder / "model", folder, args.precision, "image" if args.image_only else "both", "checkpoint" if args.checkpoint else "keep")
    learning = [value for key, value in model.named_parameters() if key != "logit_scale" and (key.startswith("visual.") or not args.image_only)]
    optimizer = torch.optim.AdamW(learning, lr=1e-4, betas=(0.9, 0.98), eps=1e-6, weight_decay=0.2, fused=True)

    def step():
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast("cpu", torch.bfloat16, enabled=args.precision == "bf16"):
            seen = model.encode_image(images)
            read = texts if args.image_only else model.encode_text(tokens)
        logits = F.normalize(seen.float(), dim=-1) @ F.normalize(read.float(), dim=-1).T / 0.07
        target = torch.arange(args.batch)
        loss = (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2
        loss.backward()
        optimizer.step()
        return loss.item()

    losses = [(ours.ask("step")[1], step()) for _ in range(STEPS)]
    worst = max(abs(a - b) / abs(b) for a, b in losses)
    if not worst < (1e-3 if args.precision == "f32" else 3e-2):
        raise SystemExit(f"{name}: losses differ: {losses}")
    note = f"losses within {worst:.0e}"
    goal = 1.5 if args.precision == "f32" else 1.3
    table.row(name, "pairs/s", args.batch, ours.turn("step"), {"PyTorch" if args.precision == "f32" else "PyTorch, autocast": side.timed(step)}, goal, note=note)
    memory = ours.peak_mib(), side.peak_mib()
    table.add({"work": f"memory of that ({name})", "unit": "MiB", "goal": "≤ 0.7", "peer": "PyTorch", "ours": memory[0], "theirs": memory[1], "ratio": memory[0] / memory[1],
               "quartiles": [memory[0] / memory[1]] * 2, "share": None, "note": "", "others": {}})
    ours.close()

#!/usr/bin/env python3
"""CLIP ViT-B/32 beside open_clip in PyTorch: pictures and captions to rows, tokens, and one picture classified by a process that starts from nothing.

Both have the same random weights and read the same pixels and tokens. PyTorch runs as it comes, compiled, with channels last, and, in bf16, by autocast or with weights
of bf16; the quickest counts.
"""
import os
import subprocess
import sys

import side

args = side.arguments(__doc__, batch={"type": int, "default": 32}, captions={"type": int, "default": 1000})

import numpy as np  # noqa: E402  (threads are read at import)
import open_clip  # noqa: E402
import torch  # noqa: E402

import clip_folder  # noqa: E402

torch.set_num_threads(args.threads)
torch.manual_seed(0)
IMAGE = clip_folder.IMAGE
COLD = """
import sys, torch, open_clip
from PIL import Image
model, _, transform = open_clip.create_model_and_transforms("ViT-B-32", pretrained=sys.argv[1])
model.eval()
tokens = open_clip.get_tokenizer("ViT-B-32")([f"a photo of a {label}." for label in sys.argv[3].split(",")])
with torch.inference_mode():
    picture = model.encode_image(transform(Image.open(sys.argv[2])).unsqueeze(0), normalize=True)
    print((100 * picture @ model.encode_text(tokens, normalize=True).T).softmax(-1).tolist())
"""
table = side.Table(args)


def inference(work):
    def run():
        with torch.inference_mode():
            return work()

    return run


def pixels(folder, n):
    """What both sides read: ours channels last."""
    images = torch.randn(n, 3, 224, 224)
    images.permute(0, 2, 3, 1).contiguous().numpy().tofile(folder / "images.f32")
    return images


def rows(path):
    return np.fromfile(path, dtype=np.float32).reshape(-1, 512)


def image_rows(folder, model, images):
    for precision, goal, one in (("f32", 1.2, 1.3), ("bf16", 1.3, None)):
        name = f"ViT-B/32 image embedding, batch {args.batch}, {precision}"
        if not any(map(table.wants, (name, name.replace(f"batch {args.batch}", "batch 1")))):
            continue
        ours = side.ours(args, "embed", folder / "model", folder, precision)
        peers = {}

        def peer(name, visual, x, autocast=False):
            def work():
                with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
                    return visual(x)

            peers[name] = inference(work), inference(lambda: visual(x[:1]) if not autocast else None)

        visual = model.visual
        if precision == "f32":
            peer("PyTorch", visual, images)
            peer("PyTorch, channels last", visual, images.to(memory_format=torch.channels_last))
            peer("PyTorch, compiled", torch.compile(visual), images)
        else:
            half = clip_folder.open_clip.create_model("ViT-B-32", pretrained=None, precision="fp32").visual
            half.load_state_dict(visual.state_dict())
            half = half.eval().to(torch.bfloat16)
            peer("PyTorch, autocast", visual, images, autocast=True)
            peer("PyTorch, weights of bf16", half, images.to(torch.bfloat16))
            peer("PyTorch, weights of bf16, compiled", torch.compile(half), images.to(torch.bfloat16))
        ours.ask("dump")
        note = side.agree(name, rows(folder / "images.out"), inference(lambda: visual(images))().numpy(), 0.9999 if precision == "f32" else 0.999)
        turns = {who: side.timed(work) for who, (work, _) in peers.items()}
        if table.wants(name):
            table.row(name, "pictures/s", args.batch, ours.turn("images"), turns, goal, args.batch * IMAGE, ours.peak, note)
        name = f"ViT-B/32 image embedding, batch 1, {precision}"
        if one and table.wants(name):
            turns = {who: side.timed(work) for who, (_, work) in peers.items()}
            table.row(name, "pictures/s", 1, ours.turn("image"), turns, one, IMAGE, ours.peak, rounds=3 * args.rounds)
        ours.close()


def text_rows(folder, model):
    name = f"CLIP text embedding, {args.captions} captions of COCO and Flickr8k, f32"
    if not table.wants(name):
        return
    lines = side.captions(args, args.captions)
    (folder / "lines.txt").write_text("".join(f"{line}\n" for line in lines))
    tokens = open_clip.get_tokenizer("ViT-B-32")(lines)
    ours = side.ours(args, "embed", folder / "model", folder, "f32")

    def work(encode, batch):
        return inference(lambda: torch.cat([encode(part) for part in tokens.split(batch)]))

    ours.ask("dump")
    note = side.agree(name, rows(folder / "texts.out"), work(model.encode_text, 64)().numpy(), 0.9999)
    # compiled, a batch takes what it takes as it comes, after half a minute of compiling
    peers = {"PyTorch": side.timed(work(model.encode_text, 64))}
    table.row(name, "captions/s", len(lines), ours.turn("tokens"), peers, 3, note=note)
    ours.close()


def cold_rows(folder, model):
    name = "classify one picture, cold process"
    if not table.wants(name):
        return
    weights, photo, labels = folder / "model/open_clip_model.safetensors", side.photos(args, 1)[0], "dog,cat,bicycle,car"
    (folder / "cold.py").write_text(COLD)

    def process(*command):
        return side.timed(lambda: subprocess.run([str(part) for part in command], check=True, capture_output=True))

    ours = process(args.bin / "bifocal", "classify", "--model", folder / "model", "--labels", labels, photo)
    peers = {"open_clip": process(sys.executable, folder / "cold.py", weights, photo, labels)}
    table.row(name, "times/s", 1, ours, peers, 8)


with side.folder() as temporary:
    folder = side.pathlib.Path(temporary)
    model, _ = clip_folder.write(folder / "model")
    os.environ["TORCHINDUCTOR_FREEZING"] = "1"
    images = pixels(folder, args.batch)
    image_rows(folder, model, images)
    text_rows(folder, model)
    cold_rows(folder, model)

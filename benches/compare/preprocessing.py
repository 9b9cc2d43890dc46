#!/usr/bin/env python3
"""Photos to tensors and captions to tokens: beside Pillow with torchvision, HF tokenizers and open_clip.

Photos are JPEG files in memory, scaled to 640 × 480 before; one thread on either side. Tokens are CLIP's, in batches.
"""
import io

import side

args = side.arguments(__doc__, photos={"type": int, "default": 200}, captions={"type": int, "default": 4000})

import numpy as np  # noqa: E402  (threads are read at import)
import open_clip  # noqa: E402
import torch  # noqa: E402
from PIL import Image  # noqa: E402
from tokenizers import Tokenizer  # noqa: E402

import clip_folder  # noqa: E402

table = side.Table(args)


def draft(file):
    """The picture at half its size, by libjpeg's own way of that."""
    picture = Image.open(io.BytesIO(file))
    picture.draft("RGB", (224, 224))
    return picture


def jpegs(folder):
    for name, goal in (("exact", 1.5), ("reduced", 3)):
        work = f"JPEG 640×480 → 224 tensor, one thread, {name}"
        if not table.wants(work):
            continue
        torch.set_num_threads(1)
        paths = []
        for at, path in enumerate(side.photos(args, args.photos)):
            paths.append(folder / f"{at:04}.jpg")
            Image.open(path).convert("RGB").resize((640, 480), Image.Resampling.BICUBIC).save(paths[-1], quality=90)
        (folder / "photos.txt").write_text("".join(f"{path}\n" for path in paths))
        files = [path.read_bytes() for path in paths]
        transform = open_clip.image_transform(224, is_train=False, mean=open_clip.OPENAI_DATASET_MEAN, std=open_clip.OPENAI_DATASET_STD)
        ours = side.ours(args, "photos", folder, threads=1)
        ours.ask("dump" if name == "exact" else "dump-reduced")
        expected = torch.stack([transform(Image.open(io.BytesIO(file))) for file in files]).permute(0, 2, 3, 1).numpy()
        difference = np.abs(np.fromfile(folder / "photos.out", dtype=np.float32).reshape(expected.shape) - expected)
        if name == "exact" and not difference.max() < 1e-6 or not difference.mean() < 0.1:
            raise SystemExit(f"{work}: values differ by {difference.max()}, {difference.mean()} on average")
        peers = {"Pillow and open_clip's torchvision transform": side.timed(lambda: [transform(Image.open(io.BytesIO(file))) for file in files])}
        if name == "reduced":
            peers["Pillow's draft mode and the same transform"] = side.timed(lambda: [transform(draft(file)) for file in files])
        table.row(work, "photos/s", len(files), ours.turn(name), peers, goal, note=f"values within {difference.max():.0e}, {difference.mean():.0e} on average")
        ours.close()


def tokens(folder):
    lines = side.captions(args, args.captions)
    (folder / "lines.txt").write_text("".join(f"{line}\n" for line in lines))
    clip_folder.write(folder / "model")
    fast, slow = Tokenizer.from_file(str(folder / "model/tokenizer.json")), open_clip.get_tokenizer("ViT-B-32")
    ours = side.ours(args, "embed", folder / "model", folder)
    ours.ask("ids")
    mine = [[int(token) for token in line.split()] for line in (folder / "ids.out").read_text().splitlines()]
    if mine != [encoding.ids[:77] for encoding in fast.encode_batch(lines)]:
        raise SystemExit("tokens differ")
    for peer, goal, work in (("HF tokenizers", 2, lambda: fast.encode_batch(lines)), ("open_clip", 20, lambda: slow(lines))):
        name = f"CLIP tokenizer beside {peer}"
        if table.wants(name):
            table.row(name, "captions/s", len(lines), ours.turn("tokenize"), {peer: side.timed(work)}, goal, note="tokens are the same")
    ours.close()


with side.folder() as temporary:
    place = side.pathlib.Path(temporary)
    jpegs(place)
    tokens(place)

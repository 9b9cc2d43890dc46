#!/usr/bin/env python3
"""Photos into an index: `bifocal index` beside open_clip's preprocessing in a DataLoader, the same tower in PyTorch, and a file of vectors.

    cargo build --release
    BIFOCAL_DATA=… python benches/compare/index_photos.py [--photos 5000] [--rounds 3] [--threads 2]

Needs torch, open_clip and Pillow. The photos are made once, from those in BIFOCAL_DATA, by cropping, flipping, changing colours and encoding
again, with a fixed seed. Both sides get the same random weights (ViT-B/32), the same photos, and the same number of threads, and take turns;
each turn takes its share of the photos. Rates are without starting: on our side the time for one photo alone is taken off, on the other
everything before the first photo is not counted. Ours also writes thumbnails, sizes and hashes. The number of the DataLoader's workers is
the best of 0 to the number of threads, tried first. After that the embeddings of both sides are compared.
"""
import argparse
import json
import os
import pathlib
import random
import shutil
import sqlite3
import statistics
import subprocess
import tempfile
import time

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--photos", type=int, default=5000)
parser.add_argument("--rounds", type=int, default=3)
parser.add_argument("--batch", type=int, default=32)
parser.add_argument("--threads", type=int, default=2)
parser.add_argument("--binary", default="target/release/bifocal")
parser.add_argument("--cache", type=pathlib.Path, default=pathlib.Path(tempfile.gettempdir()) / "bifocal-bench-photos")
args = parser.parse_args()
for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "RAYON_NUM_THREADS"):
    os.environ[name] = str(args.threads)

import numpy as np  # noqa: E402  (threads are read at import)
import open_clip  # noqa: E402
import torch  # noqa: E402
from PIL import Image, ImageEnhance  # noqa: E402

import clip_folder  # noqa: E402

torch.set_num_threads(args.threads)
torch.manual_seed(0)


def make_photos():
    data = pathlib.Path(os.environ["BIFOCAL_DATA"])
    sources = sorted(p for name in ("flickr8k", "coco", "imagenet-sample") for p in (data / name / "images").rglob("*.jpg"))
    args.cache.mkdir(parents=True, exist_ok=True)
    paths = [args.cache / f"{i:05}.jpg" for i in range(args.photos)]
    for i, path in enumerate(paths):
        if path.exists():
            continue
        rng = random.Random(i)
        image = Image.open(sources[i % len(sources)]).convert("RGB")
        width, height = (round(side * rng.uniform(0.6, 1)) for side in image.size)
        left, top = rng.randint(0, image.width - width), rng.randint(0, image.height - height)
        image = image.crop((left, top, left + width, top + height))
        if rng.random() < 0.5:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        for enhance in (ImageEnhance.Brightness, ImageEnhance.Color):
            image = enhance(image).enhance(rng.uniform(0.8, 1.2))
        image.save(path.with_suffix(".tmp"), "JPEG", quality=rng.randint(80, 95))
        path.with_suffix(".tmp").rename(path)
    return paths


class Photos(torch.utils.data.Dataset):
    def __init__(self, paths, transform):
        self.paths, self.transform = paths, transform

    def __len__(self):
        return len(self.paths)

    def __getitem__(self, i):
        return self.transform(Image.open(self.paths[i]))


def theirs(model, transform, paths, workers, out):
    start = time.perf_counter()
    rows = []
    with torch.inference_mode():
        for images in torch.utils.data.DataLoader(Photos(paths, transform), batch_size=args.batch, num_workers=workers):
            rows.append(model.encode_image(images, normalize=True).numpy())
    rows = np.concatenate(rows)
    np.save(out, rows)
    out.with_suffix(".json").write_text(json.dumps([str(p) for p in paths]))
    return time.perf_counter() - start, rows


def ours(model, paths, store):
    """The wall time of the whole process; the list of photos is a folder of links."""
    folder = store.with_name(store.name + "-photos")
    for place in (folder, store):
        shutil.rmtree(place, ignore_errors=True)
    folder.mkdir()
    for path in paths:
        os.link(path, folder / path.name)
    start = time.perf_counter()
    subprocess.run([args.binary, "index", "--model", model, "--store", store, folder], check=True, capture_output=True)
    return time.perf_counter() - start


def stored(store):
    rows = sqlite3.connect(store / "store.db").execute("SELECT key, f16 FROM items JOIN vectors USING (id)")
    return {pathlib.Path(key).name: np.frombuffer(f16, np.float16).astype(np.float32) for key, f16 in rows}


paths = make_photos()
# links need the same disk
with tempfile.TemporaryDirectory(dir=args.cache.parent) as temporary:
    folder = pathlib.Path(temporary)
    model, transform = clip_folder.write(folder / "model")
    few = paths[: max(args.batch, len(paths) // 10)]
    theirs(model, transform, few, 0, folder / "warm.npy")
    tried = {n: theirs(model, transform, few, n, folder / "warm.npy")[0] for n in range(args.threads + 1)}
    workers = min(tried, key=tried.get)
    print(f"DataLoader: {workers} workers ({', '.join(f'{n}: {len(few) / s:.1f}/s' for n, s in tried.items())})")
    rates, cosines, largest = ([], []), [], 0.0
    for i in range(args.rounds):
        share = paths[len(paths) * i // args.rounds : len(paths) * (i + 1) // args.rounds]

        def our_turn():
            alone = ours(folder / "model", share[:1], folder / "one")
            rates[0].append((len(share) - 1) / (ours(folder / "model", share, folder / "store") - alone))

        def their_turn():
            seconds, rows = theirs(model, transform, share, workers, folder / "rows.npy")
            rates[1].append(len(share) / seconds)
            return rows

        rows = None
        for turn in (our_turn, their_turn) if i % 2 else (their_turn, our_turn):
            rows = turn() if turn is their_turn else turn() or rows
        found = stored(folder / "store")
        assert len(found) == len(share), f"{len(found)} of {len(share)} photos are in the store"
        for path, row in zip(share, rows):
            cosines.append(float(found[path.name] @ row / np.linalg.norm(found[path.name])))
            largest = max(largest, float(np.abs(found[path.name] - row).max()))
    ratios = [a / b for a, b in zip(*rates)]
    print(f"\nViT-B/32, {len(paths)} photos in {args.rounds} rounds, {args.threads} threads, PyTorch {torch.__version__}, open_clip {open_clip.__version__}")
    print("\n| | Bifocal photos/s | open_clip photos/s | ratio (median) | range | smallest cosine | largest difference (f16 store) |\n|---|---|---|---|---|---|---|")
    print(f"| index photos | {statistics.median(rates[0]):.1f} | {statistics.median(rates[1]):.1f} | {statistics.median(ratios):.2f} | "
          f"{min(ratios):.2f}–{max(ratios):.2f} | {min(cosines):.6f} | {largest:.1e} |")

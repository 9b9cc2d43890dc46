#!/usr/bin/env python3
"""Pictures and captions to measure the graph of large stores with: crops of photos at different places and sizes, and what people say of the photos.

    scripts/recall-crops.py --data "$BIFOCAL_DATA" --out crops --each 10
    bifocal embed --model M --images crops/pictures --out crops/rows.npy
    bifocal embed --model M --texts crops/captions.txt --out crops/queries.npy
    cargo bench -p bifocal-search --features hnsw --bench store -- --data crops --rows 100000 --recall

Takes every picture below the folders of `--data`; the captions are one of each photo in flickr8k and coco. Needs Pillow. The seed is fixed.
"""
import argparse
import json
import multiprocessing
import pathlib
import random

from PIL import Image

SIDE = 256


def crops(job):
    """A crop has a fifth to four fifths of each side, and at least 64 pixels of it."""
    number, path, out, each = job
    draw = random.Random(number)
    image = Image.open(path).convert("RGB")
    for i in range(each):
        width, height = (max(min(64, side), round(side * draw.uniform(0.2, 0.8))) for side in image.size)
        left, top = draw.randint(0, image.width - width), draw.randint(0, image.height - height)
        crop = image.crop((left, top, left + width, top + height))
        scale = SIDE / min(crop.size)
        crop.resize([round(side * scale) for side in crop.size], Image.BICUBIC).save(out / f"{number:05}-{i:03}.jpg", quality=90)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=pathlib.Path, required=True)
    parser.add_argument("--out", type=pathlib.Path, required=True)
    parser.add_argument("--each", type=int, default=10, help="crops of a picture")
    args = parser.parse_args()
    pictures = sorted(path for path in args.data.rglob("*") if path.suffix in (".jpg", ".jpeg", ".png"))
    folder = args.out / "pictures"
    folder.mkdir(parents=True)
    captions = []
    for name in ("flickr8k", "coco"):
        rows = map(json.loads, open(args.data / name / "captions.jsonl", encoding="utf-8"))
        captions += [" ".join(row["captions"]["en"][0].split()) for row in rows]
    (args.out / "captions.txt").write_text("\n".join(captions) + "\n", encoding="utf-8")
    with multiprocessing.Pool() as pool:
        for _ in pool.imap_unordered(crops, [(i, path, folder, args.each) for i, path in enumerate(pictures)], 8):
            pass
    print(f"{len(pictures) * args.each} crops of {len(pictures)} pictures, {len(captions)} captions")


if __name__ == "__main__":
    main()

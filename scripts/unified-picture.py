#!/usr/bin/env python3
"""What a unified model draws: docs/images/unified.jpg, and its captions on standard output.

    scripts/unified-picture.py MODEL HOLDOUT DATA docs/images/unified.jpg [BIFOCAL]

MODEL and HOLDOUT: `model` and `holdout.json` in the folder of the run; DATA/flickr8k has the captions. The upper row is of captions that it has learnt from, the lower one of
captions whose photos were held out. Needs Pillow. No photo is in the picture.
"""
import json
import pathlib
import subprocess
import sys
import tempfile

from PIL import Image

ROOT = pathlib.Path(__file__).parents[1]
EACH, SIDE, GAP = 4, 192, 8
model, holdout, data, out = sys.argv[1:5]
binary = sys.argv[5] if len(sys.argv) > 5 else str(ROOT / "target/release/bifocal")
held = {row["image"] for row in json.loads(pathlib.Path(holdout).read_text())}
rows = [json.loads(line) for line in (pathlib.Path(data) / "flickr8k/captions.jsonl").read_text().splitlines()]
picture = Image.new("RGB", (EACH * (SIDE + GAP) - GAP, 2 * (SIDE + GAP) - GAP), "white")
with tempfile.TemporaryDirectory() as folder:
    drawn = pathlib.Path(folder) / "drawn.png"
    for y, wanted in enumerate((False, True)):
        for x, row in enumerate([row for row in rows if (row["image"] in held) == wanted][:EACH]):
            caption = row["captions"]["en"][0]
            print("held out:" if wanted else "learnt:", caption)
            drawn.unlink(missing_ok=True)
            subprocess.run([binary, "chat", "--model", model, "--draw", drawn, "--prompt", caption, "--guidance", "3", "--top-k", "100", "--seed", "7"], check=True, capture_output=True)
            picture.paste(Image.open(drawn).resize((SIDE, SIDE), Image.Resampling.BICUBIC), (x * (SIDE + GAP), y * (SIDE + GAP)))
picture.save(out, quality=88)

#!/usr/bin/env python3
"""Photos before, after the frozen autoencoder alone, and after the codes: docs/images/vq.jpg.

    scripts/vq-picture.py MODEL docs/images/vq.jpg [BIFOCAL]     MODEL: what `bifocal train recipes/vq.toml --profile lab` wrote

Needs Pillow. The photos are free (samples/ATTRIBUTION.md); the lab's profile does not learn from them.
"""
import pathlib
import subprocess
import sys
import tempfile

from PIL import Image

ROOT = pathlib.Path(__file__).parents[1]
PHOTOS = 8
model, out = sys.argv[1:3]
binary = sys.argv[3] if len(sys.argv) > 3 else str(ROOT / "target/release/bifocal")
photos = sorted((ROOT / "samples/photos/images").iterdir())[:: 50 // PHOTOS][:PHOTOS]
with tempfile.TemporaryDirectory() as folder:
    subprocess.run([binary, "tokenize", "--model", model, "--pairs", folder, *map(str, photos)], check=True)
    rows = [Image.open(path).convert("RGB") for path in sorted(pathlib.Path(folder).iterdir())]
    width, height = rows[0].size
    gap = 8
    picture = Image.new("RGB", (2 * width + gap, (PHOTOS // 2) * (height + gap) - gap), "white")
    for i, row in enumerate(rows):
        picture.paste(row, (i % 2 * (width + gap), i // 2 * (height + gap)))
picture.save(out, quality=88)

#!/usr/bin/env python3
"""Draws the README's picture: what searches in the demo's store found. Run after `make demo`; needs Pillow.

    scripts/search-picture.py docs/images/search.jpg
"""
import json
import subprocess
import sys

from PIL import Image, ImageDraw, ImageFont

QUERIES = ["boys playing baseball", "ein Fahrrad", "un elefante", "時計"]
SIDE, GAP, COLUMNS = 200, 8, 4


def font(size):
    """A font that has the letters of all queries, if there is one."""
    for name in ("NotoSansCJK-Regular.ttc", "DroidSansFallbackFull.ttf", "DejaVuSans.ttf"):
        try:
            return ImageFont.truetype(name, size)
        except OSError:
            pass
    return ImageFont.load_default()


sheet = Image.new("RGB", (COLUMNS * (SIDE + GAP) + GAP, len(QUERIES) * (SIDE + 34) + GAP), "white")
draw = ImageDraw.Draw(sheet)
for row, query in enumerate(QUERIES):
    command = ["target/release/bifocal", "search", "--store", "demo/store", "-k", str(COLUMNS), "--json", query]
    hits = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)["hits"]
    top = row * (SIDE + 34) + GAP
    draw.text((GAP, top), query, "black", font(20))
    for column, hit in enumerate(hits):
        photo = Image.open(hit["key"]).convert("RGB")
        scale = SIDE / min(photo.size)
        photo = photo.resize((round(photo.width * scale), round(photo.height * scale)))
        left, upper = (photo.width - SIDE) // 2, (photo.height - SIDE) // 2
        x = GAP + column * (SIDE + GAP)
        sheet.paste(photo.crop((left, upper, left + SIDE, upper + SIDE)), (x, top + 28))
        draw.rectangle((x, top + 28 + SIDE - 20, x + 52, top + 28 + SIDE), "white")
        draw.text((x + 4, top + 28 + SIDE - 19), f"{hit['score']:.3f}", "black", font(16))
sheet.save(sys.argv[1], quality=85)

#!/usr/bin/env python3
"""Lays out what the models of `bifocal lab` can be evaluated on: the pictures that their training held out, and SugarCrepe with those of its photos that are there.

    python scripts/lab-eval-data.py $BIFOCAL_DATA runs/lab/base/holdout.json eval-data

Links, no copies; `bifocal eval ... --data eval-data --partial` reads it (docs/eval.md).
"""

import json
import pathlib
import sys

data, holdout, out = map(pathlib.Path, sys.argv[1:4])
held = {row["image"] for row in json.loads(holdout.read_text())}
data = data.resolve()


def link(name, target):
    path = out / name
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.is_symlink():
        path.symlink_to(target)


link("flickr8k-held-out/images", data / "flickr8k/images")
rows = [line for line in (data / "flickr8k/captions.jsonl").read_text().splitlines() if json.loads(line)["image"] in held]
(out / "flickr8k-held-out/captions.jsonl").write_text("\n".join(rows) + "\n")
for name in ("imagenet-sample", "tux-stamps", "coco"):
    link(name, data / name)
for path in sorted((data / "sugarcrepe").glob("*.json")):
    link(f"sugarcrepe/{path.name}", path)
link("sugarcrepe/val2017", data / "coco/images")
print(f"{len(rows)} pictures held out, in {out}")

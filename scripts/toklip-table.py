#!/usr/bin/env python3
"""Token encoders beside their teacher: what docs/methods/toklip.md says of them.

    python scripts/toklip-table.py TEACHER DATA RUN...

TEACHER is a bundle, a RUN the folder of a run that held photos of DATA/flickr8k out; DATA/imagenet-sample is what no run has seen. Names that differ in what follows
their last `-s` are seeds of one row: mean ± standard deviation. Retrieval is among the held-out photos with all English captions, zero-shot with
"a photo of a {}."; the cosine is the mean over the held-out photos. Needs numpy; BIFOCAL names the binary.
"""

import json
import os
import pathlib
import re
import statistics
import subprocess
import sys
import tempfile

import numpy

BINARY = os.environ.get("BIFOCAL", "target/release/bifocal")
teacher, data, *runs = sys.argv[1:]
data = pathlib.Path(data)


def ask(*args):
    subprocess.run([BINARY, *map(str, args)], check=True, stdout=subprocess.DEVNULL)


def held_out(run):
    rows = json.loads((pathlib.Path(run) / "holdout.json").read_text())
    return sorted(row["image"] for row in rows if pathlib.Path(row["source"]).name == "flickr8k")


def top(model, work):
    """Top-1 and top-5 in zero-shot classification, in percent."""
    out = pathlib.Path(tempfile.mkdtemp(dir=work))
    ask("eval", "zero-shot", "--model", model, "--data", data / "imagenet-sample", "--templates", work / "templates", "--out", out)
    report = json.loads(next(out.glob("*.json")).read_text())
    return [100 * report[key] for key in ("top1", "top5")]


def rows_of(model, work, *what):
    ask("embed", "--model", model, *what, "--out", work / "rows.npy")
    return numpy.load(work / "rows.npy")


def recall(pictures):
    """Recall at 1 in both directions, in percent; of equal scores the first counts, as in `bifocal eval retrieval`."""
    scores = texts @ pictures.T
    return [100 * float((scores.argmax(1) == owners).mean()), 100 * float((owners[scores.argmax(0)] == numpy.arange(len(pictures))).mean())]


held = held_out(runs[0])
if any(held_out(run) != held for run in runs):
    sys.exit("the runs have held different photos out; train them from the same sources")
captions = {row["image"]: row["captions"]["en"] for row in map(json.loads, (data / "flickr8k/captions.jsonl").read_text().splitlines())}
owners = numpy.array([at for at, name in enumerate(held) for _ in captions[name]])
photos = ["--images", *(data / "flickr8k" / name for name in held)]
table = {}
with tempfile.TemporaryDirectory() as work:
    work = pathlib.Path(work)
    (work / "templates").write_text("a photo of a {}.\n")
    (work / "texts").write_text("".join(f"{caption}\n" for name in held for caption in captions[name]))
    # they are frozen: the same for all
    texts = rows_of(teacher, work, "--texts", work / "texts")
    seen = rows_of(teacher, work, *photos)
    for name, model in [("teacher", teacher)] + [(re.sub(r"-s\d+$", "", pathlib.Path(run).name), pathlib.Path(run) / "model") for run in runs]:
        rows = rows_of(model, work, *photos)
        table.setdefault(name, []).append([*recall(rows), *top(model, work), float((rows * seen).sum(1).mean())])
print("| | n | t→i R@1 | i→t R@1 | top-1 | top-5 | cosine |\n|---|---:|---:|---:|---:|---:|---:|")
for name, seeds in table.items():
    cells = []
    for at, column in enumerate(zip(*seeds)):
        digits = 2 if at == 4 else 1
        spread = f" ± {statistics.stdev(column):.{digits}f}" if len(column) > 1 else ""
        cells.append(f"{statistics.mean(column):.{digits}f}{spread}")
    print(f"| {name} | {len(seeds)} | " + " | ".join(cells) + " |")

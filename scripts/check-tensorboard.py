#!/usr/bin/env python3
"""Reads the event file of a run with TensorBoard itself and compares it with the run's metrics.jsonl and evaluations.jsonl.

Trains a recipe into a temporary folder, or looks at the folder of a run that is there. Every value must be there once, in order,
equal as a float32.

    pip install tensorboard && python scripts/check-tensorboard.py [--run FOLDER | --recipe recipes/sail.toml --profile smoke]
"""

import argparse
import json
import math
import pathlib
import struct
import subprocess
import sys
import tempfile

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

EVERYTHING = {"scalars": 0, "histograms": 0, "tensors": 0}


def single(value):
    """A JSON number, or null for what is not a number, as float32."""
    return math.nan if value is None else struct.unpack("f", struct.pack("f", value))[0]


def rows(path):
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def expected(run):
    """Tag to list of (step, value)."""
    values = {}
    for row in rows(run / "metrics.jsonl"):
        scalars = {key: row[key] for key in ("loss", "lr", "grad_norm", "logit_scale", "logit_bias") if key in row}
        scalars |= {f"terms/{name}": value for name, value in row["terms"].items()}
        for tag, value in scalars.items():
            values.setdefault(tag, []).append((row["step"], single(value)))
    histograms = {}
    for row in rows(run / "evaluations.jsonl"):
        for name, value in row["metrics"].items():
            values.setdefault(f"eval/{name}", []).append((row["step"], single(value)))
        for tag, key in (("similarity/own", "positive"), ("similarity/other", "negative")):
            if row.get("similarities"):
                histograms.setdefault(tag, []).append((row["step"], row["similarities"][key]))
    return values, histograms


def same(a, b):
    return len(a) == len(b) and all(s == t and (v == w or math.isnan(v) and math.isnan(w)) for (s, v), (t, w) in zip(a, b))


def check(run):
    read = EventAccumulator(str(run), size_guidance=EVERYTHING)
    read.Reload()
    scalars, histograms = expected(run)
    wrong = []
    tags = read.Tags()
    if set(tags["scalars"]) != set(scalars):
        wrong.append(f"scalars {sorted(tags['scalars'])} instead of {sorted(scalars)}")
    if set(tags["histograms"]) != set(histograms):
        wrong.append(f"histograms {sorted(tags['histograms'])} instead of {sorted(histograms)}")
    for tag in sorted(set(scalars) & set(tags["scalars"])):
        found = [(e.step, e.value) for e in read.Scalars(tag)]
        good = same(found, scalars[tag])
        print(f"{tag:24} {len(found):6} values  {'equal' if good else 'DIFFERENT'}")
        if not good:
            wrong.append(f"{tag}: {found[:3]}… instead of {scalars[tag][:3]}…")
    for tag in sorted(set(histograms) & set(tags["histograms"])):
        found = [(e.step, list(e.histogram_value.bucket)) for e in read.Histograms(tag)]
        good = found == histograms[tag]
        print(f"{tag:24} {len(found):6} histograms  {'equal' if good else 'DIFFERENT'}")
        if not good:
            wrong.append(f"{tag}: counts differ")
    if not scalars:
        wrong.append(f"{run} has no metrics")
    return wrong


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--run", type=pathlib.Path)
    parser.add_argument("--bifocal", default="target/release/bifocal")
    parser.add_argument("--recipe", default="recipes/sail.toml")
    parser.add_argument("--profile", default="smoke")
    args = parser.parse_args()
    if args.run:
        wrong = check(args.run)
    else:
        with tempfile.TemporaryDirectory() as folder:
            run = pathlib.Path(folder) / "run"
            subprocess.run([args.bifocal, "train", args.recipe, "--profile", args.profile, "--out", run], check=True)
            wrong = check(run)
    sys.exit("\n".join(wrong) or 0)


main()

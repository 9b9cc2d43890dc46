"""What the comparisons share: our process, turns, rows of the table. Imported before numpy and torch, which read the number of threads when they are imported."""
import argparse
import json
import os
import pathlib
import statistics
import subprocess
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]


def arguments(description, **more):
    """The options that every script has, and the threads in the environment."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7, help="pairs of turns")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--only", action="append", default=[], help="rows whose name contains this")
    parser.add_argument("--json", type=pathlib.Path, help="append rows to this file")
    parser.add_argument("--models", type=pathlib.Path, default=pathlib.Path(os.environ.get("BIFOCAL_MODELS", ROOT / "models")))
    parser.add_argument("--data", type=pathlib.Path, default=pathlib.Path(os.environ.get("BIFOCAL_DATA", ROOT / "data")))
    parser.add_argument("--bin", type=pathlib.Path, default=ROOT / "target/release", help="folder of our programs")
    for name, options in more.items():
        parser.add_argument(f"--{name}", **options)
    args = parser.parse_args()
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "RAYON_NUM_THREADS"):
        os.environ[name] = str(args.threads)
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    return args


class Process:
    """A process that answers a line with the seconds that it took and a number of the result."""

    def __init__(self, *command, **more):
        env = dict(os.environ, **more)
        self.process = subprocess.Popen([str(part) for part in command], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env)
        if self.process.stdout.readline().strip() != "ready":
            raise SystemExit(f"{' '.join(map(str, command))} did not open")

    def ask(self, command):
        self.process.stdin.write(command + "\n")
        self.process.stdin.flush()
        seconds, value = self.process.stdout.readline().split()
        return float(seconds), float(value)

    def turn(self, command):
        return lambda: self.ask(command)[0]

    def peak(self):
        """Operations of multiply-adds in registers a second, as measured now."""
        return self.ask("peak")[1]

    def peak_mib(self):
        return peak_mib(self.process.pid)

    def page_faults(self):
        """Pages that it has been given so far; none are while it uses again what it has."""
        with open(f"/proc/{self.process.pid}/stat") as status:
            return int(status.read().rpartition(")")[2].split()[7])

    def close(self):
        self.process.stdin.close()
        self.process.wait()


def ours(args, *what, threads=None, **more):
    """Our side: benches/compare/ours/."""
    return Process(args.bin / "examples/compare", *what, RAYON_NUM_THREADS=str(threads or args.threads), **more)


def peak_mib(pid="self"):
    """The most memory that a process has held."""
    with open(f"/proc/{pid}/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmHWM")) / 1024


def timed(work):
    """A turn of someone else's function."""

    def turn():
        start = time.perf_counter()
        work()
        return time.perf_counter() - start

    return turn


class Table:
    """Rows, printed as they come and appended to `--json`."""

    def __init__(self, args):
        self.args, self.begun = args, False

    def wants(self, name):
        return not self.args.only or any(part in name for part in self.args.only)

    def row(self, name, unit, amount, ours, peers, goal, flops=None, peak=None, note="", rounds=None):
        """Lets all take turns, each first after another one in the next round; the ratio is to the quickest peer.

        `ours` and each of `peers` (by name) give seconds for `amount` of `unit`; `flops` is what that takes at least, `peak` a turn that gives what multiply-adds in registers
        reach a second."""
        sides = {"ours": ours, **peers}
        times = {side: [] for side in sides}
        for side in sides.values():
            side()
        shares = []
        for at in range(rounds or self.args.rounds):
            order = list(sides)
            for side in order[at % len(order) :] + order[: at % len(order)]:
                times[side].append(sides[side]())
            if flops and peak:
                shares.append(flops / times["ours"][-1] / peak())
        medians = {side: statistics.median(values) for side, values in times.items()}
        best = min(peers, key=lambda peer: medians[peer])
        ratios = sorted(theirs / mine for mine, theirs in zip(times["ours"], times[best]))
        quarter = len(ratios) // 4
        self.add({
            "work": name, "unit": unit, "goal": goal, "peer": best, "ours": amount / medians["ours"], "theirs": amount / medians[best], "ratio": statistics.median(ratios),
            "quartiles": [ratios[quarter], ratios[-1 - quarter]], "share": statistics.median(shares) if shares else None, "note": note,
            "others": {peer: amount / medians[peer] for peer in peers if peer != best},
        })

    def add(self, row):
        if not self.begun:
            print(HEAD, flush=True)
            self.begun = True
        print(line_of(row), flush=True)
        if self.args.json:
            with open(self.args.json, "a") as out:
                out.write(json.dumps(row) + "\n")


HEAD = "| work | Bifocal | best peer | | ratio (quartiles) | goal | of the floor | |\n|---|---:|---:|---|---:|---:|---:|---|"


def number(value):
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def line_of(row):
    low, high = row["quartiles"]
    share = f"{100 * row['share']:.0f} %" if row["share"] else ""
    others = ", ".join(f"{peer} {number(value)}" for peer, value in row["others"].items())
    notes = "; ".join(part for part in (row["note"], others and f"others: {others}") if part)
    return (f"| {row['work']}, {row['unit']} | {number(row['ours'])} | {number(row['theirs'])} | {row['peer']} | **{row['ratio']:.2f}** ({low:.2f}–{high:.2f}) | {row['goal']} | {share} | {notes} |")


def captions(args, n):
    """English captions of the photos in `--data`, in the order of the files."""
    found = []
    for name in ("coco", "flickr8k"):
        for line in (args.data / name / "captions.jsonl").read_text().splitlines():
            found += json.loads(line)["captions"]["en"]
    if len(found) < n:
        raise SystemExit(f"{args.data}: {len(found)} English captions, {n} are needed")
    return [" ".join(caption.split()) for caption in found[:n]]


def photos(args, n):
    """Photos in `--data`."""
    found = sorted(path for name in ("flickr8k", "coco", "imagenet-sample") for path in (args.data / name / "images").rglob("*.jpg"))
    if len(found) < n:
        raise SystemExit(f"{args.data}: {len(found)} photos, {n} are needed")
    return found[:n]


def folder():
    """A place for what both sides read."""
    return tempfile.TemporaryDirectory(prefix="bifocal-compare-")


def products(model, tokens):
    """Operations of a PyTorch model's linear layers on that many tokens, which is less than all of them."""
    import torch

    attention = torch.nn.MultiheadAttention
    weights = [m.weight for m in model.modules() if isinstance(m, torch.nn.Linear)] + [m.in_proj_weight for m in model.modules() if isinstance(m, attention)]
    return 2 * tokens * sum(weight.numel() for weight in weights)


def cosine(a, b):
    """The smallest cosine of rows."""
    import numpy as np

    a, b = (np.asarray(rows, dtype=np.float64) for rows in (a, b))
    return float(((a * b).sum(-1) / np.linalg.norm(a, axis=-1) / np.linalg.norm(b, axis=-1)).min())


def agree(what, a, b, least):
    """A fast wrong answer is worth nothing."""
    found = cosine(a, b)
    if not found >= least:
        raise SystemExit(f"{what}: the smallest cosine of both sides' rows is {found:.6f}, at least {least} is needed")
    return f"cosine ≥ {found:.5f}"

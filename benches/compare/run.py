#!/usr/bin/env python3
"""All comparisons, one after the other: writes benches/results.json and, from it, the table of benches/README.md.

    BIFOCAL_DATA=… BIFOCAL_MODELS=models python3 benches/compare/run.py [--rounds 7] [--only NAME] [--python PYTHON]

Peers are installed from PyPI into target/peers (some GB, since PyTorch's wheels bring GPU libraries), or are those of `--python`. Our programs are built first. A comparison
that fails is told in the table in place of its rows; with `--only` rows of others stay as they are. An hour on two cores.
"""
import argparse
import datetime
import json
import os
import pathlib
import platform
import subprocess
import tempfile
import venv

import side

PACKAGES = """torch torchvision open_clip_torch transformers sentence-transformers onnx onnxscript onnxruntime efficientnet_lite_pytorch llama-cpp-python faiss-cpu usearch gguf
              pillow tokenizers safetensors numpy""".split()
TRAIN = [["open_clip_train.py", "--batch", "32", "--precision", precision, "--texts", texts] for precision in ("f32", "bf16") for texts in ("tower", "rows", "adaptor")]
# in f32 PyTorch's side alone would need more than 23 GB
TRAIN.append(["open_clip_train.py", "--batch", "256", "--precision", "bf16", "--texts", "tower"])
SCRIPTS = [["open_clip_embed.py"], ["onnx_runtime.py"], *TRAIN, ["sentence_encoders.py"], ["losses_torch.py"], ["preprocessing.py"], ["llama.py"]]
BEGIN, END = "<!-- rows of benches/compare/run.py -->", "<!-- end of rows -->"

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--rounds", type=int, default=7)
parser.add_argument("--only", action="append", default=[], help="scripts whose name contains this")
parser.add_argument("--python", type=pathlib.Path, help="an environment that has the peers")
args = parser.parse_args()
here, readme, results = pathlib.Path(__file__).parent, side.ROOT / "benches/README.md", side.ROOT / "benches/results.json"


def peers():
    if args.python:
        return args.python
    python = side.ROOT / "target/peers/bin/python"
    if not python.exists():
        venv.create(python.parents[1], with_pip=True)
    subprocess.run([python, "-m", "pip", "install", "-q", *PACKAGES], check=True)
    return python


def build():
    subprocess.run(["cargo", "build", "--release", "--locked", "--bins", "--examples"], cwd=side.ROOT, check=True)
    told = subprocess.run(["cargo", "bench", "--locked", "--bench", "store", "--no-run", "--message-format", "json"],
                          cwd=side.ROOT, check=True, capture_output=True, text=True).stdout
    built = (json.loads(line) for line in told.splitlines())
    return next(part["executable"] for part in built if part.get("executable") and part["target"]["name"] == "store")


def replace(path, text):
    made = path.with_suffix(".tmp")
    made.write_text(text)
    made.replace(path)


def table(rows):
    """The README's table: what was measured in one go on one machine stands together."""
    parts = []
    for told in dict.fromkeys(script["machine"] for script in rows.values()):
        parts += ["", told, "", side.HEAD]
        for name, script in rows.items():
            if script["machine"] == told:
                parts += [side.line_of(row) for row in script["rows"]]
                parts += [f"| {name} | | | | | | | ended with an error |"] * script["failed"]
    return "\n".join(parts) + "\n"


def machine():
    model = next(line.split(":")[1].strip() for line in open("/proc/cpuinfo") if line.startswith("model name"))
    return f"{model}, {os.cpu_count()} processors, {platform.system()}, {datetime.date.today()}, {args.rounds} rounds"


text = readme.read_text()
start, end = text.index(BEGIN) + len(BEGIN), text.index(END)
rows = json.loads(results.read_text()) if results.exists() else {}
store, python = build(), peers()
for script, *options in SCRIPTS + [["search_faiss.py", "--bench", store, "--only", "faiss flat f32", "--only", "faiss flat f16"]]:
    name = " ".join([script, *(option for option in options if option != store)])
    if args.only and not any(part in name for part in args.only):
        continue
    print(f"\n{name}", flush=True)
    with tempfile.NamedTemporaryFile(suffix=".json") as made:
        failed = subprocess.run([python, here / script, *options, "--rounds", str(args.rounds), "--json", made.name]).returncode
        found = [json.loads(line) for line in made.read().splitlines()]
    rows[name] = {"machine": machine(), "failed": bool(failed), "rows": found}
    # after each script, so that nothing is lost when a later one is stopped
    replace(results, json.dumps(rows, indent=1, ensure_ascii=False) + "\n")
    replace(readme, f"{text[:start]}\n{table(rows)}\n{text[end:]}")

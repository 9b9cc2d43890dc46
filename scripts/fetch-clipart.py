#!/usr/bin/env python3
"""Fetches drawings with titles: a data set of captioned pictures for the lab of continual learning.

    scripts/fetch-clipart.py [--deb FILE] [--out .bifocal/clipart] [--count 400]

From Debian's package openclipart-png (Open Clip Art Library 0.18, public domain), which apt downloads unless a file is given; dpkg-deb unpacks it. A picture's
caption is the title in its PNG. Of the pictures of things, those with the same title count once, and which ones are taken does not depend on the machine. Python's
standard library is enough.
"""
import argparse
import hashlib
import json
import pathlib
import re
import shutil
import struct
import subprocess
import sys
import tempfile
import zlib

PACKAGE, SHA256 = "openclipart-png=1:0.18+dfsg-19", "f07f1545a2970c2cf3fa339bc2405da1a95cf2b1827bfa05bf73eb1c20291c02"
FOLDERS = "animals buildings electronics food people plants recreation tools transportation".split()
LARGEST = 1024  # pixels of a side; some are posters
# Titles in Italian, mostly.
ANOTHER_LANGUAGE = {"Architetto Francesco Rollandin"}


def texts(path):
    """Size of a PNG and the texts in it (tEXt and zTXt chunks), by keyword."""
    data, at, found, size = path.read_bytes(), 8, {}, (0, 0)
    while at + 8 <= len(data):
        length, kind = struct.unpack(">I4s", data[at : at + 8])
        body = data[at + 8 : at + 8 + length]
        if kind == b"IHDR":
            size = struct.unpack(">II", body[:8])
        elif kind in (b"tEXt", b"zTXt"):
            key, _, value = body.partition(b"\0")
            found[key.decode("latin-1")] = (zlib.decompress(value[1:]) if kind == b"zTXt" else value).decode("latin-1")
        at += 12 + length
    return size, found


def caption(title):
    """Without numbers of variants, and nothing when that leaves no word."""
    title = re.sub(r"[\s_]*\d+$", "", " ".join(title.split())).replace("_", " ").strip()
    return title if re.search("[A-Za-z]{3}", title) and len(title) <= 60 and title.isascii() else ""


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--deb", type=pathlib.Path)
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path(".bifocal/clipart"))
    parser.add_argument("--count", type=int, default=400)
    args = parser.parse_args()
    if (args.out / "captions.jsonl").is_file():
        sys.exit(f"{args.out} is there already")
    with tempfile.TemporaryDirectory() as work:
        if args.deb is None:
            if subprocess.run(["apt-get", "download", "--quiet", PACKAGE], cwd=work).returncode:
                sys.exit("fetch-clipart: apt could not download the package; fetch it from a Debian mirror and give it as --deb")
            (args.deb,) = pathlib.Path(work).glob("*.deb")
        digest = hashlib.sha256(args.deb.read_bytes()).hexdigest()
        if digest != SHA256:
            sys.exit(f"fetch-clipart: {args.deb} has SHA-256 {digest}, expected {SHA256}")
        subprocess.run(["dpkg-deb", "-x", args.deb, f"{work}/x"], check=True)
        root = pathlib.Path(work, "x/usr/share/openclipart/png")
        chosen = {}
        for path in sorted(path for folder in FOLDERS for path in (root / folder).rglob("*.png")):
            (width, height), found = texts(path)
            name = caption(found.get("Title", ""))
            if name and max(width, height) <= LARGEST and found.get("Author") not in ANOTHER_LANGUAGE:
                chosen.setdefault(name.lower(), (path, name))
        order = sorted(chosen.values(), key=lambda one: hashlib.sha256(one[1].encode()).digest())[: args.count]
        new = args.out.with_name(args.out.name + ".new")
        shutil.rmtree(new, ignore_errors=True)
        (new / "images").mkdir(parents=True)
        with open(new / "captions.jsonl", "w", encoding="utf-8") as out:
            for path, name in sorted(order):
                file = "__".join(path.relative_to(root).parts)
                shutil.copyfile(path, new / "images" / file)
                out.write(json.dumps({"image": f"images/{file}", "captions": {"en": [name]}}) + "\n")
        new.rename(args.out)
    print(f"{args.out}: {len(order)} of {len(chosen)} drawings")


if __name__ == "__main__":
    main()

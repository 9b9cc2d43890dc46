#!/usr/bin/env python3
"""Rebuilds samples/: free pictures, names and captions for the demo, the tests and the documentation.

    pip install pillow==13.0.0 resvg-py==0.5.0        # Pillow re-encodes photos, resvg draws the emoji
    BIFOCAL_DATA=/path/to/data python3 scripts/make-samples.py [photos] [emoji] [classes]

Emoji and their names come from pinned npm packages (fetched with `npm pack`); the COCO photos and the class names are
read from $BIFOCAL_DATA/coco and $BIFOCAL_DATA/classnames. Without arguments everything is
rebuilt. samples/ATTRIBUTION.md says where each file comes from and under which licence.
"""
import io, json, os, re, shutil, subprocess, sys, tarfile, tempfile
from pathlib import Path
from PIL import Image

OUT = Path(__file__).resolve().parent.parent / "samples"
NPM = {"noto": "@iconify-json/noto@1.2.9", "cldr": "cldr-annotations-full@48.2.0",
       "derived": "cldr-annotations-derived-full@48.2.0"}
# Bifocal's language code -> CLDR locale.
LOCALES = {code: code for code in (
    "af ar bg bn ca cs da de el en es et fa fi fil fr he hi hr hu id it ja ko lt lv ms nl no pl pt ro ru sk sl sr sv "
    "sw ta te th tr uk ur vi zh").split()}
SIDE = 128   # pixels of an emoji
PHOTO = 320  # short side of a photo


def npm(name: str, work: Path) -> Path:
    """Unpacks a pinned npm package and returns its folder."""
    done = subprocess.run(["npm", "pack", "--silent", NPM[name]], cwd=work, check=True, capture_output=True, text=True)
    with tarfile.open(work / done.stdout.split()[-1]) as tar:
        tar.extractall(work / name, filter="data")
    return work / name / "package"


def data(*parts: str) -> Path:
    root = os.environ.get("BIFOCAL_DATA")
    if not root:
        sys.exit("set BIFOCAL_DATA to the folder that holds coco/ and classnames/")
    return Path(root, *parts)


def write_jsonl(path: Path, rows: list) -> None:
    path.write_text("".join(json.dumps(r, ensure_ascii=False) + "\n" for r in rows), encoding="utf-8")


def fresh(folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def photos() -> None:
    out, rows = fresh(OUT / "photos"), []
    (out / "images").mkdir()
    for line in data("coco", "captions.jsonl").read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        im = Image.open(data("coco", row["image"])).convert("RGB")
        scale = min(1.0, PHOTO / min(im.size))
        im = im.resize((round(im.width * scale), round(im.height * scale)), Image.Resampling.LANCZOS)
        im.save(out / row["image"], quality=85, optimize=True)
        row["captions"] = {lang: [c.strip() for c in texts] for lang, texts in row["captions"].items()}
        rows.append(row)
    write_jsonl(out / "captions.jsonl", rows)


# Families, couples and the like exist in dozens of near-identical combinations, clock faces in 24.
DROP = re.compile(r"skin-tone|-tone\d|^(family|kiss|couple-with-heart|keycap|regional-indicator)(-|$)|oclock|-thirty$"
                  r"|^(men|women)-(with-bunny|wrestling)|-facing-right$|^input-|squared|-button$|japanese-.*-button")
SYMBOLS = set("""aries taurus gemini cancer leo virgo libra scorpio sagittarius capricorn aquarius pisces ophiuchus
    recycling-symbol atom-symbol biohazard radioactive peace-symbol yin-yang star-of-david wheelchair-symbol no-smoking
    no-bicycles no-littering no-pedestrians no-mobile-phones non-potable-water prohibited warning musical-note
    musical-notes children-crossing potable-water litter-in-bin-sign medical-symbol fleur-de-lis trident-emblem
    heavy-dollar-sign red-circle blue-circle green-circle yellow-circle orange-circle purple-circle brown-circle
    red-square blue-square green-square yellow-square red-question-mark red-exclamation-mark check-mark
    cross-mark place-of-worship mens-room womens-room restroom""".split())


def emoji() -> None:
    import resvg_py
    out, rows = fresh(OUT / "emoji"), []
    (out / "images").mkdir()
    with tempfile.TemporaryDirectory() as tmp:
        noto, cldr, derived = (npm(n, Path(tmp)) for n in ("noto", "cldr", "derived"))
        names = {}
        for lang, locale in LOCALES.items():
            a = json.loads((cldr / "annotations" / locale / "annotations.json").read_text(encoding="utf-8"))
            d = json.loads((derived / "annotationsDerived" / locale / "annotations.json").read_text(encoding="utf-8"))
            names[lang] = {**d["annotationsDerived"]["annotations"], **a["annotations"]["annotations"]}
        icons = json.loads((noto / "icons.json").read_text(encoding="utf-8"))["icons"]
        metadata = json.loads((noto / "metadata.json").read_text(encoding="utf-8"))
        category = {icon: c for c, members in metadata["categories"].items() for icon in members}
        chars = json.loads((noto / "chars.json").read_text(encoding="utf-8"))
        code = {}
        for c, icon in chars.items():
            code.setdefault(icon, c)
        for icon in sorted(category):
            if DROP.search(icon) or icon not in icons or icon not in code:
                continue
            if category[icon] == "Symbols" and icon not in SYMBOLS:
                continue
            text = "".join(chr(int(c, 16)) for c in code[icon].split("-"))
            bare = text.replace("\ufe0f", "")  # CLDR leaves the presentation selector out
            captions = {}
            for lang in LOCALES:
                entry = names[lang].get(text) or names[lang].get(bare)
                if entry and entry.get("tts"):
                    captions[lang] = [entry["tts"][0]]
            if "en" not in captions:
                continue
            svg = (f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
                   f'viewBox="0 0 128 128" width="{SIDE}" height="{SIDE}">{icons[icon]["body"]}</svg>')
            im = Image.open(io.BytesIO(bytes(resvg_py.svg_to_bytes(svg_string=svg, skip_system_fonts=True))))
            # A palette of 128 colours with alpha halves the size; the difference is not visible.
            im = im.convert("RGBA").quantize(128, method=Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE)
            im.save(out / "images" / f"{icon}.png", optimize=True)
            rows.append({"image": f"images/{icon}.png", "category": category[icon], "captions": captions})
    write_jsonl(out / "captions.jsonl", rows)


def classes() -> None:
    files = {"en": "en", "it": "it", "zh": "cn", "ja": "jp", "ar": "ar"}
    lists = {lang: json.loads(data("classnames", f"{f}_classnames.json").read_text(encoding="utf-8"))["imagenet1k"]
             for lang, f in files.items()}
    rows = [{"class": i, "names": {lang: names[i].strip() for lang, names in lists.items()}} for i in range(1000)]
    body = ",\n".join(json.dumps(r, ensure_ascii=False) for r in rows)
    (OUT / "imagenet-classes.json").write_text(f"[\n{body}\n]\n", encoding="utf-8")


PARTS = {"photos": photos, "emoji": emoji, "classes": classes}

if __name__ == "__main__":
    OUT.mkdir(exist_ok=True)
    for part in sys.argv[1:] or PARTS:
        PARTS[part]()
        print(part, "done")

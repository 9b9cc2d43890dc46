"""Captions of held-out photos in the forms that `bifocal score captions` reads.

    python scripts/held-out-captions.py photos RUN/holdout.json FOLDER [N]     paths of the first N held-out photos, for `bifocal chat --image`
    python scripts/held-out-captions.py pair said.jsonl FOLDER OUT             OUT/questions.jsonl: what people wrote of the photos that were talked
                                                                               about; OUT/answers.jsonl: what `bifocal chat --json` said of them
"""
import json
import pathlib
import sys

what, source, folder = sys.argv[1], pathlib.Path(sys.argv[2]), pathlib.Path(sys.argv[3])
if what == "photos":
    held = json.loads(source.read_text())
    for row in held[:int(sys.argv[4]) if len(sys.argv) > 4 else len(held)]:
        print(folder / row["image"])
else:
    said = {pathlib.Path(row["image"]).name: row["answer"] for row in map(json.loads, source.read_text().splitlines())}
    rows = [json.loads(line) for line in (folder / "captions.jsonl").read_text().splitlines()]
    rows = [row for row in rows if pathlib.Path(row["image"]).name in said]
    out = pathlib.Path(sys.argv[4])
    out.mkdir(parents=True, exist_ok=True)
    write = lambda name, lines: (out / name).write_text("".join(json.dumps(line) + "\n" for line in lines))
    write("questions.jsonl", [{"image": row["image"], "captions": {"en": row["captions"]["en"]}} for row in rows])
    write("answers.jsonl", [{"image_id": row["image"], "caption": said[pathlib.Path(row["image"]).name]} for row in rows])

"""How much generated captions say of what people wrote about the same picture, and of what they wrote about other pictures.

    bifocal chat --model runs/llava/model --json --max-tokens 40 --image A.jpg --image B.jpg … > said.jsonl
    python scripts/score-captions.py said.jsonl FOLDER/captions.jsonl [LANGUAGE]

For each caption: the share of its words, without the commonest ones, that stand in any of the picture's captions (precision), and the share of the words that
at least two people used which it has (recall). The same of each caption beside other pictures' captions is what words alone reach, without looking. Pairs of
neighbouring words are counted in the same way. No official metric: these need synonyms and weights that are not here.
"""
import json
import pathlib
import re
import sys
from collections import Counter

COMMON = set("a an the of in on at to and or is are be with by for from it its his her their there this that as while into up out over near next".split())


def words(text):
    return [w for w in re.findall(r"[a-z]+", text.lower()) if w not in COMMON]


def grams(text):
    every = re.findall(r"[a-z]+", text.lower())
    return set(zip(every, every[1:]))


said = [json.loads(line) for line in pathlib.Path(sys.argv[1]).read_text().splitlines()]
language = sys.argv[3] if len(sys.argv) > 3 else "en"
references = {}
for line in pathlib.Path(sys.argv[2]).read_text().splitlines():
    row = json.loads(line)
    references[pathlib.Path(row["image"]).name] = row["captions"].get(language, [])
pairs = [(row["answer"], references[pathlib.Path(row["image"]).name]) for row in said]


def score(pairs):
    totals = Counter()
    for caption, people in pairs:
        used = Counter(word for text in people for word in set(words(text)))
        own, often = set(words(caption)), {word for word, n in used.items() if n >= 2}
        neighbours, theirs = grams(caption), set().union(*map(grams, people)) if people else set()
        totals["precision"] += len([w for w in own if w in used]) / max(len(own), 1)
        totals["recall"] += len(own & often) / max(len(often), 1)
        totals["pairs"] += len(neighbours & theirs) / max(len(neighbours), 1)
    return {key: 100 * value / max(len(pairs), 1) for key, value in totals.items()}


own = score(pairs)
# every caption beside the references of each of nine other pictures
others = [score([(caption, pairs[(i + shift) % len(pairs)][1]) for i, (caption, _) in enumerate(pairs)]) for shift in range(1, 10)]
for key in own:
    print(f"{key:10} {own[key]:5.1f} %   beside other pictures {sum(o[key] for o in others) / len(others):5.1f} %")
print(f"{len(pairs)} captions, {len({c for c, _ in pairs})} of them different, {sum(len(c.split()) for c, _ in pairs) / len(pairs):.1f} words")

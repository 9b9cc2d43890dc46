#!/usr/bin/env python3
"""The same tiny checkpoint on the same miniatures, by `bifocal eval` and by CLIP_benchmark's own readers and metrics: the figures must be equal.

Compared are zero-shot classification and retrieval from its webdataset layout, Flickr30k from its text file, XM3600 in three languages, and
SugarCrepe. Where the two differ on purpose the difference is accounted for: an exact tie with the negative is right there (argmax) and wrong
here, as SugarCrepe's authors have it. Its linear probe is not compared, since it runs on CUDA alone.

    pip install clip_benchmark transformers "numpy<2.4" && python scripts/check-clip-benchmark.py [target/release/bifocal]
"""

import json
import pathlib
import shutil
import subprocess
import sys
import tempfile

import numpy as np
import torch
from clip_benchmark.datasets.builder import build_dataset, get_dataset_collate_fn, image_captions_collate_fn
from clip_benchmark.metrics import image_caption_selection, zeroshot_classification, zeroshot_retrieval
from PIL import Image
from transformers import CLIPModel, PreTrainedTokenizerFast

BIFOCAL = sys.argv[1] if len(sys.argv) > 1 else "target/release/bifocal"
FIXTURES = pathlib.Path(__file__).parents[1] / "crates/cli/tests/fixtures/benchmarks"
LANGUAGES = ["de", "en", "quz"]


class Clip:
    """What CLIP_benchmark asks of a model."""

    def __init__(self):
        self.model = CLIPModel.from_pretrained(FIXTURES / "checkpoint").eval()

    def encode_image(self, pixels):
        return self.model.visual_projection(self.model.vision_model(pixel_values=pixels).pooler_output)

    def encode_text(self, ids):
        return self.model.text_projection(self.model.text_model(input_ids=ids).pooler_output)


def transform(image):
    settings = json.loads((FIXTURES / "checkpoint/preprocessor_config.json").read_text())
    side = settings["size"]["shortest_edge"]
    # the pictures are as high as the model wants them, so that nothing is resized
    assert image.size[1] == side <= image.size[0]
    left = (image.size[0] - side) // 2
    pixels = np.array(image.convert("RGB").crop((left, 0, left + side, side)), dtype=np.float64) / 255
    return torch.tensor(((pixels - settings["image_mean"]) / settings["image_std"]).transpose(2, 0, 1), dtype=torch.float32)


def lay_out(name, to):
    """As the tests do: the miniature's files, and the pictures where they belong."""
    shutil.copytree(FIXTURES / "layouts" / name, to)
    for path, picture in json.loads((FIXTURES / "pictures.json").read_text())[name].items():
        (to / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(FIXTURES / f"pictures/{picture}.jpg", to / path)
    return to


def theirs(root):
    """CLIP_benchmark's figures by (suite, group)."""
    model = Clip()
    fast = PreTrainedTokenizerFast.from_pretrained(FIXTURES / "checkpoint")
    tokenizer = lambda texts: fast(list(texts), padding="max_length", truncation=True, max_length=77, return_tensors="pt")["input_ids"]
    figures = {}

    def load(dataset, collate=None):
        return torch.utils.data.DataLoader(dataset, batch_size=4, collate_fn=collate)

    def retrieval(key, loader, ks):
        figures[key] = zeroshot_retrieval.evaluate(model, loader, tokenizer, "cpu", amp=False, recall_k_list=ks)

    common = {"transform": transform, "split": "test", "download": False}
    dataset = build_dataset("wds/x", root=str(root / "webdataset"), task="zeroshot_classification", **common)
    loader = torch.utils.data.DataLoader(dataset.batched(4), batch_size=None)
    figures["webdataset", "en"] = zeroshot_classification.evaluate(model, loader, tokenizer, _classes(loader, dataset), dataset.templates, "cpu", amp=False)
    dataset = build_dataset("wds/x", root=str(root / "webdataset-retrieval"), task="zeroshot_retrieval", **common)
    retrieval(("webdataset-retrieval", "en"), torch.utils.data.DataLoader(dataset.batched(4, collation_fn=image_captions_collate_fn), batch_size=None), [1, 5])
    for name, root_of, language, ks in [("flickr30k", "flickr30k-lines", "en", [1, 5]), *[("crossmodal3600", "xm3600", l, [1]) for l in LANGUAGES]]:
        folder = root / root_of
        if name == "crossmodal3600" and not (folder / "xm3600").exists():
            # it looks in a folder of that name
            (folder / "xm3600").mkdir()
            for part in ("images", "captions.jsonl"):
                (folder / "xm3600" / part).symlink_to(folder / part)
        dataset = build_dataset(name, root=str(folder), task="zeroshot_retrieval", language=language, **common)
        retrieval((root_of, language), load(dataset, get_dataset_collate_fn(name)), ks)
    for file in sorted((root / "sugarcrepe").glob("*.json")):
        dataset = build_dataset(f"sugar_crepe/{file.stem}", root=str(root / "sugarcrepe"), task="image_caption_selection", **common)
        found = image_caption_selection.evaluate(model, load(dataset, get_dataset_collate_fn("sugar_crepe/x")), tokenizer, "cpu", amp=False)
        ties = sum(row["caption"] == row["negative_caption"] for row in json.loads(file.read_text()).values())
        figures["sugarcrepe", file.stem] = {"acc": found["text_acc"] - ties / len(dataset)}
    return figures


def _classes(loader, dataset):
    # its metric asks the loader's data set for the classes
    loader.dataset.classes = dataset.classes
    return dataset.classes


def ours(root, out):
    """Bifocal's figures by (suite, group), from the files that it writes for CLIP_benchmark's users."""
    figures = {}
    for suite, folder in [("webdataset", "webdataset"), ("webdataset", "webdataset-retrieval"), ("flickr30k", "flickr30k-lines"),
                          ("xm3600", "xm3600"), ("sugarcrepe", "sugarcrepe")]:
        command = [BIFOCAL, "eval", suite, "--model", FIXTURES / "checkpoint", "--data", root / folder, "--out", out / folder, "--partial"]
        subprocess.run(list(map(str, command)), check=True, stdout=subprocess.DEVNULL)
        for path in (out / folder / "clip_benchmark").glob("*.json"):
            written = json.loads(path.read_text())
            group = written["dataset"].split("/")[1] if "/" in written["dataset"] else written["language"]
            figures[folder, group] = written["metrics"]
    return figures


def main():
    different = 0
    with tempfile.TemporaryDirectory() as folder:
        root = pathlib.Path(folder)
        for name in ("webdataset", "webdataset-retrieval", "flickr30k-lines", "xm3600", "sugarcrepe"):
            lay_out(name, root / name)
        mine = ours(root, root / "out")
        for (name, group), figures in theirs(root).items():
            for metric, value in figures.items():
                if metric == "acc5" and np.isnan(value):
                    continue
                found = mine.get((name, group), {}).get(metric)
                # theirs are means in single precision
                equal = found is not None and abs(found - value) < 1e-6
                different += not equal
                print(f"{name:22} {group:12} {metric:26} {value:.6f} {'=' if equal else f'BUT {found}'}")
    sys.exit(f"{different} figures differ" if different else 0)


main()

#!/usr/bin/env python3
"""Converts checkpoints with `bifocal convert` and loads both sides with the libraries that they are for.

transformers and open_clip each write small CLIPs and a SigLIP with random weights; each is converted to the other's layout, to a bundle, and
back, and embeds the same pictures and texts; so does the vision tower by itself. Differences, as a share of the largest number, are printed;
more than 2e-5 is a failure. The SigLIP's vision tower is a real one (350 MB), since open_clip knows it by its name only: 2 GB of temporary files.

    pip install torch transformers open_clip_torch timm && python scripts/check-convert.py [target/release/bifocal]
"""

import json
import pathlib
import subprocess
import sys
import tempfile

import open_clip
import torch
from safetensors.torch import load_file, save_file
from transformers import CLIPConfig, CLIPModel, CLIPVisionModelWithProjection, SiglipConfig, SiglipModel, SiglipVisionModel

BIFOCAL = sys.argv[1] if len(sys.argv) > 1 else "target/release/bifocal"
WORDS, POSITIONS, SIDE = 120, 16, 32
START, END = WORDS, WORDS + 1
TEXTS = [[START, 3, 9, 77, END], [START, END], [START, *range(14), END]]


def randomise(model):
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for name, p in model.named_parameters():
            noise = torch.randn(p.shape, generator=generator)
            if p.ndim >= 2:
                p.copy_(noise / p[0].numel() ** 0.5 * 1.5)
            elif name.endswith("weight"):
                p.copy_(1 + 0.3 * noise)
            elif p.ndim == 1:
                p.copy_(0.3 * noise)
    return model.eval()


def tokenizer(folder):
    vocabulary = {f"w{i}": i for i in range(WORDS)} | {"<start>": START, "<end>": END}
    special = {t: {"id": t, "ids": [i], "tokens": [t]} for t, i in (("<start>", START), ("<end>", END))}
    part = lambda token: {"SpecialToken": {"id": token, "type_id": 0}}
    processor = {"type": "TemplateProcessing", "special_tokens": special,
                 "single": [part("<start>"), {"Sequence": {"id": "A", "type_id": 0}}, part("<end>")],
                 "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 0}}]}
    text = {"version": "1.0", "truncation": None, "padding": None, "added_tokens": [], "normalizer": None, "decoder": None,
            "pre_tokenizer": {"type": "Whitespace"}, "post_processor": processor,
            "model": {"type": "WordLevel", "vocab": vocabulary, "unk_token": "w0"}}
    (folder / "tokenizer.json").write_text(json.dumps(text))
    config = {"bos_token": "<start>", "eos_token": "<end>", "pad_token": "<end>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))


def write_hugging_face(folder, act):
    stack = {"intermediate_size": 80, "num_hidden_layers": 3, "num_attention_heads": 4, "hidden_act": act}
    config = CLIPConfig(
        projection_dim=24,
        text_config=stack | {"vocab_size": WORDS + 2, "hidden_size": 32, "max_position_embeddings": POSITIONS,
                             "bos_token_id": START, "eos_token_id": END, "pad_token_id": END},
        vision_config=stack | {"hidden_size": 40, "image_size": SIDE, "patch_size": 8})
    randomise(CLIPModel(config)).save_pretrained(folder)
    tokenizer(folder)


def write_open_clip(folder, quick):
    folder.mkdir()
    stack = {"width": 32, "layers": 3}
    cfg = {"embed_dim": 24, "quick_gelu": quick,
           "vision_cfg": stack | {"image_size": SIDE, "patch_size": 8, "head_width": 8, "mlp_ratio": 2.5},
           "text_cfg": stack | {"context_length": POSITIONS, "vocab_size": WORDS + 2, "heads": 4, "mlp_ratio": 3}}
    model = randomise(open_clip.model.CLIP(**cfg))
    preprocess = {"size": SIDE, "mode": "RGB", "mean": [0.5, 0.4, 0.3], "std": [0.2, 0.25, 0.3],
                  "interpolation": "bicubic", "resize_mode": "shortest", "fill_color": 0}
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": cfg, "preprocess_cfg": preprocess}))
    save_file({k: v.contiguous() for k, v in model.state_dict().items()}, folder / "open_clip_model.safetensors")
    tokenizer(folder)


def write_siglip_hugging_face(folder):
    config = SiglipConfig(
        text_config={"vocab_size": WORDS + 2, "hidden_size": 32, "intermediate_size": 80, "num_hidden_layers": 3, "num_attention_heads": 4,
                     "max_position_embeddings": POSITIONS, "projection_size": 768},
        vision_config={"image_size": 256, "patch_size": 32})
    randomise(SiglipModel(config)).save_pretrained(folder)
    tokenizer(folder)


def write_siglip_open_clip(folder):
    folder.mkdir()
    cfg = {"embed_dim": 768, "init_logit_bias": -10, "custom_text": True,
           "vision_cfg": {"image_size": 256, "timm_model_name": "vit_base_patch32_siglip_256", "timm_model_pretrained": False,
                          "timm_pool": "map", "timm_proj": "none"},
           "text_cfg": {"context_length": POSITIONS, "vocab_size": WORDS + 2, "hf_tokenizer_name": ".", "width": 32, "heads": 4,
                        "layers": 3, "mlp_ratio": 2.5, "tokenizer_kwargs": {"clean": "canonicalize"}, "no_causal_mask": True,
                        "proj_bias": True, "pool_type": "last", "norm_kwargs": {"eps": 1e-6}}}
    model = randomise(open_clip.model.CustomTextCLIP(**{k: v for k, v in cfg.items() if k != "custom_text"}))
    preprocess = {"size": 256, "mode": "RGB", "mean": [0.5] * 3, "std": [0.5] * 3, "interpolation": "bicubic", "resize_mode": "squash"}
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": cfg, "preprocess_cfg": preprocess}))
    save_file({k: v.contiguous() for k, v in model.state_dict().items()}, folder / "open_clip_model.safetensors")
    tokenizer(folder)


def padded(fill):
    ids = torch.full([len(TEXTS), POSITIONS], fill)
    for row, text in zip(ids, TEXTS):
        row[: len(text)] = torch.tensor(text)
    return ids


def loaded(kind, folder):
    model, info = kind.from_pretrained(folder, output_loading_info=True)
    problems = {k: v for k, v in info.items() if v}
    assert not problems, f"transformers: {problems}"
    return model.eval()


def embed(folder, layout, siglip):
    """What the library of a layout computes: pictures and, if there is a text tower, texts, scale and bias."""
    side = 256 if siglip else SIDE
    images = torch.randn([3, 3, side, side], generator=torch.Generator().manual_seed(11))
    with torch.no_grad():
        if layout == "hf-vision":
            out = loaded(SiglipVisionModel if siglip else CLIPVisionModelWithProjection, folder)(pixel_values=images)
            return {"pictures": out.pooler_output if siglip else out.image_embeds}
        if layout == "hf":
            model = loaded(SiglipModel if siglip else CLIPModel, folder)
            image = model.vision_model(pixel_values=images).pooler_output
            text = model.text_model(input_ids=padded(END)).pooler_output
            if not siglip:
                image, text = model.visual_projection(image), model.text_projection(text)
        else:
            model, _, _ = open_clip.create_model_and_transforms(f"local-dir:{folder}")
            state = load_file(folder / "open_clip_model.safetensors")
            assert set(state) == set(model.state_dict()), set(state) ^ set(model.state_dict())
            open_clip.get_tokenizer(f"local-dir:{folder}")
            model.eval()
            image, text = model.encode_image(images), model.encode_text(padded(END if siglip else 0))
        numbers = {"pictures": image, "texts": text, "scale": model.logit_scale.reshape([])}
        return numbers | ({"bias": model.logit_bias.reshape([])} if siglip else {})


def main():
    worst = 0.0
    with tempfile.TemporaryDirectory() as tmp:
        tmp = pathlib.Path(tmp)
        cases = []
        for act in ("quick_gelu", "gelu"):
            write_hugging_face(tmp / f"hf-{act}", act)
            write_open_clip(tmp / f"open-clip-{act}", act == "quick_gelu")
            cases += [(f"hf-{act}", "hf", "open-clip"), (f"open-clip-{act}", "open-clip", "hf")]
        write_siglip_hugging_face(tmp / "hf-siglip")
        write_siglip_open_clip(tmp / "open-clip-siglip")
        cases += [("hf-siglip", "hf", "open-clip"), ("open-clip-siglip", "open-clip", "hf")]
        for name, home, away in cases:
            siglip = "siglip" in name
            original = embed(tmp / name, home, siglip)
            for steps in ([away], [away, home], ["bundle", home], ["bundle", away], ["hf-vision"]):
                at = tmp / name
                for step in steps:
                    to = tmp / "-".join([at.name, "to", step])
                    if not to.exists():
                        run = subprocess.run([BIFOCAL, "convert", at, to, "--layout", step], capture_output=True, text=True)
                        assert run.returncode == 0, run.stderr
                    at = to
                found = embed(at, steps[-1], siglip)
                assert found.keys() == original.keys() or steps == ["hf-vision"]
                differences = {k: ((v - original[k]).abs().max() / original[k].abs().max().clamp(min=1)).item() for k, v in found.items()}
                worst = max(worst, *differences.values())
                print(f"{name} → {' → '.join(steps)}: " + ", ".join(f"{k} {v:.1e}" for k, v in differences.items()), flush=True)
    print(f"largest difference {worst:.1e}")
    sys.exit(worst > 2e-5)


main()

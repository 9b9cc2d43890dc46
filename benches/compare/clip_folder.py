"""A ViT-B/32 CLIP with random weights as a folder in open_clip's layout, with the tokenizer that a text tower needs."""
import gzip
import json

import open_clip
from open_clip.tokenizer import bytes_to_unicode, default_bpe
from safetensors.torch import save_file
from transformers import CLIPTokenizerFast

# Operations for a picture, of all layers on all tokens; ours leaves out what the last block would do for tokens that nobody reads.
PATCHES = 2 * 49 * 3072 * 768
IMAGE = PATCHES + 2 * (12 * (50 * 12 * 768 * 768 + 2 * 50 * 50 * 768) + 768 * 512)


def write(folder):
    """Gives open_clip's model and its transform of pictures."""
    model, _, transform = open_clip.create_model_and_transforms("ViT-B-32", pretrained=None, precision="fp32")
    folder.mkdir()
    save_file({k: v.contiguous() for k, v in model.state_dict().items()}, folder / "open_clip_model.safetensors")
    settings = {"model_cfg": open_clip.get_model_config("ViT-B-32"), "preprocess_cfg": dict(open_clip.get_model_preprocess_cfg(model))}
    (folder / "open_clip_config.json").write_text(json.dumps(settings))
    merges = [tuple(line.split()) for line in gzip.open(default_bpe()).read().decode().split("\n")[1 : 49152 - 256 - 2 + 1]]
    symbols = list(bytes_to_unicode().values())
    tokens = symbols + [s + "</w>" for s in symbols] + ["".join(m) for m in merges] + ["<|startoftext|>", "<|endoftext|>"]
    tokenizer = CLIPTokenizerFast(vocab={token: i for i, token in enumerate(tokens)}, merges=merges)
    (folder / "tokenizer.json").write_text(tokenizer.backend_tokenizer.to_str())
    settings = {"bos_token": "<|startoftext|>", "eos_token": "<|endoftext|>", "pad_token": "<|endoftext|>", "model_max_length": 77}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return model.eval(), transform

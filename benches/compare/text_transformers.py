"""Tokens per second of a GGUF language model in transformers: python text_transformers.py MODEL.gguf LINES [REPEATS] [BATCH]

Texts are sorted by length and padded batch by batch, as sentence-transformers does; tokens are counted without padding. The number
of threads is OMP_NUM_THREADS. The other side is `cargo run --release --example text_throughput`.
"""
import pathlib
import statistics
import sys
import time

import torch
from transformers import AutoModel, AutoTokenizer

path = pathlib.Path(sys.argv[1])
lines = pathlib.Path(sys.argv[2]).read_text().splitlines()
repeats, batch = (int(n) for n in (sys.argv[3:5] + ["3", "32"][len(sys.argv) - 3 :]))
tokenizer = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
model = AutoModel.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.float32).eval()


def embed(texts):
    texts = sorted(texts, key=len, reverse=True)
    for at in range(0, len(texts), batch):
        x = tokenizer(texts[at : at + batch], padding=True, return_tensors="pt")
        hidden = model(**x, use_cache=False).last_hidden_state
        mask = x["attention_mask"].unsqueeze(-1)
        (hidden * mask).sum(1) / mask.sum(1)


with torch.inference_mode():
    tokens = sum(len(tokenizer(line)["input_ids"]) for line in lines)
    embed(lines[:8])
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        embed(lines)
        seconds.append(time.perf_counter() - start)
median = statistics.median(seconds)
print(f"transformers, {torch.get_num_threads()} threads, batch {batch}: {len(lines)} texts, {tokens} tokens: {median:.2f} s, "
      f"{tokens / median:.0f} tokens/s, {len(lines) / median:.1f} texts/s")

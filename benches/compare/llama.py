"""Tokens per second while writing, beside llama.cpp: python llama.py MODEL.gguf [ROUNDS] [TOKENS] [--bifocal PATH]

Both continue the same question greedily, in turns, on the threads that OMP_NUM_THREADS or RAYON_NUM_THREADS say (2 unless told otherwise). Ours is
`bifocal chat --json`, whose pace does not count what is read; llama.cpp's is taken in the same way, from the first token that is written to the last. Needs
llama-cpp-python, or, with `--transformers`, transformers, torch and gguf in its place.
"""
import argparse
import json
import os
import statistics
import subprocess
import time

parser = argparse.ArgumentParser()
parser.add_argument("model")
parser.add_argument("rounds", nargs="?", type=int, default=5)
parser.add_argument("tokens", nargs="?", type=int, default=100)
parser.add_argument("--bifocal", default="target/release/bifocal")
parser.add_argument("--threads", type=int, default=2)
parser.add_argument("--transformers", action="store_true")
args = parser.parse_args()
QUESTION = "Write a long story about a lighthouse keeper and his dog."


def ours():
    env = dict(os.environ, RAYON_NUM_THREADS=str(args.threads))
    out = subprocess.run([args.bifocal, "chat", "--model", args.model, "--prompt", QUESTION, "--max-tokens", str(args.tokens), "--json"],
                         capture_output=True, check=True, env=env, text=True)
    answer = json.loads(out.stdout)
    return answer["tokens_per_second"], answer["answer"]


def paced(pieces):
    """Tokens per second after the first one, and the text."""
    text, times = "", []
    for piece in pieces:
        text += piece
        times.append(time.perf_counter())
    return (len(times) - 1) / (times[-1] - times[0]), text


def llama_cpp():
    from llama_cpp import Llama

    model = Llama(args.model, n_ctx=1024, n_threads=args.threads, n_threads_batch=args.threads, verbose=False)

    def run():
        stream = model.create_chat_completion([{"role": "user", "content": QUESTION}], max_tokens=args.tokens, temperature=0.0, stream=True)
        return paced(text for chunk in stream if (text := chunk["choices"][0]["delta"].get("content")))

    return run


def transformers():
    import pathlib

    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    torch.set_num_threads(args.threads)
    path = pathlib.Path(args.model)
    tokenizer = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    model = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.float32).eval()
    told = "You are a helpful AI assistant named SmolLM, trained by Hugging Face"
    text = f"<|im_start|>system\n{told}<|im_end|>\n<|im_start|>user\n{QUESTION}<|im_end|>\n<|im_start|>assistant\n"
    ids = tokenizer(text, return_tensors="pt", add_special_tokens=False)["input_ids"]
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")

    def pieces():
        with torch.inference_mode():
            out = model(ids, use_cache=True)
            for _ in range(args.tokens):
                token = int(out.logits[0, -1].argmax())
                if token == end:
                    return
                yield tokenizer.decode([token])
                out = model(torch.tensor([[token]]), past_key_values=out.past_key_values, use_cache=True)

    return lambda: paced(pieces())


name, peer = ("transformers", transformers()) if args.transformers else ("llama.cpp", llama_cpp())
ratios, all_ours, all_theirs = [], [], []
peer()  # warm
for _ in range(args.rounds):
    (a, text), (b, other) = ours(), peer()
    ratios.append(a / b)
    all_ours.append(a)
    all_theirs.append(b)
same = os.path.commonprefix([text.strip(), other.strip()])
print(f"{args.threads} threads, {args.tokens} tokens, {args.rounds} rounds: Bifocal {statistics.median(all_ours):.1f} tokens/s, {name} "
      f"{statistics.median(all_theirs):.1f}, ratio {statistics.median(ratios):.2f} ({min(ratios):.2f}–{max(ratios):.2f}); "
      f"the first {len(same)} of {len(text.strip())} characters are the same")

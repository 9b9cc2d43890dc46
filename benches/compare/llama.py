#!/usr/bin/env python3
"""Writing text, token by token, beside llama.cpp and transformers.

All continue the same question greedily. Ours is `bifocal chat --json`, whose pace does not count what is read; theirs is taken in the same way, from the first token that is
written to the last. `--peer` names one of them where the other cannot be installed.
"""
import json
import os
import subprocess
import time

import side

args = side.arguments(__doc__, tokens={"type": int, "default": 100}, peer={"choices": ("llama.cpp", "transformers"), "action": "append"})
QUESTION = "Write a long story about a lighthouse keeper and his dog."
MODEL = next((args.models / "smollm2").glob("*.gguf"))
texts = {}


def ours():
    out = subprocess.run([args.bin / "bifocal", "chat", "--model", MODEL, "--prompt", QUESTION, "--max-tokens", str(args.tokens), "--json"],
                         capture_output=True, check=True, text=True)
    answer = json.loads(out.stdout)
    texts["ours"] = answer["answer"].strip()
    return args.tokens / answer["tokens_per_second"]


def paced(name, pieces):
    """A turn: seconds for as many tokens at the pace after the first one."""

    def turn():
        text, times = "", []
        for piece in pieces():
            text += piece
            times.append(time.perf_counter())
        texts[name] = text.strip()
        return args.tokens * (times[-1] - times[0]) / (len(times) - 1)

    return turn


def llama_cpp():
    from llama_cpp import Llama

    model = Llama(str(MODEL), n_ctx=1024, n_threads=args.threads, n_threads_batch=args.threads, verbose=False)

    def pieces():
        stream = model.create_chat_completion([{"role": "user", "content": QUESTION}], max_tokens=args.tokens, temperature=0.0, stream=True)
        return (text for chunk in stream if (text := chunk["choices"][0]["delta"].get("content")))

    return pieces


def transformers():
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    torch.set_num_threads(args.threads)
    tokenizer = AutoTokenizer.from_pretrained(MODEL.parent, gguf_file=MODEL.name)
    model = AutoModelForCausalLM.from_pretrained(MODEL.parent, gguf_file=MODEL.name, dtype=torch.float32).eval()
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

    return pieces


table = side.Table(args)
for peer, opened in (("llama.cpp", llama_cpp), ("transformers", transformers)):
    name = f"writing {args.tokens} tokens, SmolLM2-135M of 4 bits, beside {peer}"
    if (not args.peer or peer in args.peer) and table.wants(name):
        turn = paced(peer, opened())
        ours(), turn()
        same = os.path.commonprefix([texts["ours"], texts[peer]])
        table.row(name, "tokens/s", args.tokens, ours, {peer: turn}, 1.0, note=f"the first {len(same)} of {len(texts['ours'])} characters are the same")

#!/usr/bin/env python3
"""Captions to rows by MiniLM and by SmolLM2, from strings: beside sentence-transformers, transformers, ONNX Runtime and llama.cpp.

All sort by length and tokenise; where a peer pads, it pads batch by batch. SmolLM2 is a GGUF that transformers turns into f32 or bf16, as we do, and llama.cpp reads as it is. Rows are
the mean over tokens.
"""
import side

args = side.arguments(__doc__, captions={"type": int, "default": 2000}, few={"type": int, "default": 400, "help": "captions for llama.cpp"}, batch={"type": int, "default": 32})

import numpy as np  # noqa: E402  (threads are read at import)
import torch  # noqa: E402

torch.set_num_threads(args.threads)
table = side.Table(args)
lines = side.captions(args, args.captions)


def ours_of(model, folder, precision, name, expected, least, lines=lines):
    (folder / "lines.txt").write_text("".join(f"{line}\n" for line in lines))
    ours = side.ours(args, "embed", model, folder, precision)
    ours.ask("dump")
    rows = np.fromfile(folder / "texts.out", dtype=np.float32).reshape(len(lines), -1)
    return ours, side.agree(name, rows, expected, least)


def padded(tokenizer, run, texts):
    """Rows in the order of the texts: sorted by length, padded batch by batch, the mean over tokens that are none."""
    order = sorted(range(len(texts)), key=lambda at: -len(texts[at]))
    out = [None] * len(texts)
    for at in range(0, len(texts), args.batch):
        part = order[at : at + args.batch]
        x = tokenizer([texts[i] for i in part], padding=True, return_tensors="pt")
        hidden = run(x).float()
        mask = x["attention_mask"].unsqueeze(-1)
        for i, row in zip(part, ((hidden * mask).sum(1) / mask.sum(1)).numpy()):
            out[i] = row
    return np.stack(out)


def tokens_of(tokenizer):
    return sum(map(len, tokenizer(lines)["input_ids"]))


def minilm(folder):
    name = f"MiniLM, {len(lines)} captions, f32"
    if not table.wants(name):
        return
    import onnxruntime as ort
    from sentence_transformers import SentenceTransformer
    from transformers import AutoModel, AutoTokenizer

    path = str(args.models / "minilm")
    model = SentenceTransformer(path, device="cpu")
    expected = model.encode(lines, batch_size=args.batch, normalize_embeddings=False)
    tokenizer, bert = AutoTokenizer.from_pretrained(path), AutoModel.from_pretrained(path, attn_implementation="eager").eval()

    class Hidden(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.bert = bert.requires_grad_(False)

        def forward(self, ids, mask, types):
            return self.bert(input_ids=ids, attention_mask=mask, token_type_ids=types).last_hidden_state

    example = tokenizer(lines[:2], padding=True, return_tensors="pt")
    axes = {"ids": {0: "n", 1: "t"}, "mask": {0: "n", 1: "t"}, "types": {0: "n", 1: "t"}, "y": {0: "n", 1: "t"}}
    names = {"ids": "input_ids", "mask": "attention_mask", "types": "token_type_ids"}
    torch.onnx.export(Hidden(), tuple(example[key] for key in names.values()), str(folder / "minilm.onnx"), input_names=list(names), output_names=["y"], dynamic_axes=axes, dynamo=False)
    options = ort.SessionOptions()
    options.intra_op_num_threads = args.threads
    opened = ort.InferenceSession(str(folder / "minilm.onnx"), options, providers=["CPUExecutionProvider"])

    def onnx():
        return padded(tokenizer, lambda x: torch.from_numpy(opened.run(None, {name: x[key].numpy() for name, key in names.items()})[0]), lines)

    side.agree("ONNX Runtime", onnx(), expected, 0.9999)
    ours, note = ours_of(path, folder, "f32", name, expected, 0.9999)
    peers = {f"sentence-transformers, batch {batch}": side.timed(lambda batch=batch: model.encode(lines, batch_size=batch)) for batch in (args.batch, 128)}
    table.row(name, "captions/s", len(lines), ours.turn("texts"), {**peers, "ONNX Runtime": side.timed(onnx)}, 1.3,
              side.products(bert.encoder, tokens_of(tokenizer)), ours.peak, note)
    ours.close()


def smollm2(folder):
    few = lines[: args.few]
    path = next((args.models / "smollm2").glob("*.gguf"))
    name, gguf = f"SmolLM2-135M, {len(lines)} captions, ", f"SmolLM2-135M, {len(few)} captions, GGUF"
    goal = 2
    if not any(map(table.wants, (name + "f32", name + "bf16", gguf))):
        return
    from transformers import AutoModel, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    model = AutoModel.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.float32).eval()

    def theirs(model):
        @torch.inference_mode()
        def run():
            return padded(tokenizer, lambda x: model(**x, use_cache=False).last_hidden_state, lines)

        return run

    expected = theirs(model)()
    for precision, least in (("f32", 0.9999), ("bf16", 0.999)):
        if table.wants(name + precision):
            ours, note = ours_of(path, folder, precision, name + precision, expected, least)
            peers = {"transformers": side.timed(theirs(model))}
            if precision == "bf16":
                half = AutoModel.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.bfloat16).eval()
                peers = {"transformers, weights of bf16": side.timed(theirs(half))}
            table.row(name + precision, "captions/s", len(lines), ours.turn("texts"), peers, goal, side.products(model.layers, tokens_of(tokenizer)), ours.peak, note)
            ours.close()
    if table.wants(gguf):
        import llama_cpp

        ours, note = ours_of(path, folder, "f32", gguf, expected[: len(few)], 0.9999, few)
        llama = llama_cpp.Llama(str(path), embedding=True, n_ctx=4096, n_batch=4096, n_ubatch=4096, n_threads=args.threads, n_threads_batch=args.threads,
                                pooling_type=llama_cpp.LLAMA_POOLING_TYPE_MEAN, verbose=False)
        note += f"; llama.cpp's {side.cosine(np.array(llama.embed(few)), expected[: len(few)]):.4f}"
        table.row(gguf, "captions/s", len(few), ours.turn("texts"), {"llama.cpp": side.timed(lambda: llama.embed(few))}, 1.2, note=note)
        ours.close()


with side.folder() as temporary:
    place = side.pathlib.Path(temporary)
    minilm(place)
    smollm2(place)

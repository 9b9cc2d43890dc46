#!/usr/bin/env python3
"""Recall over 1,000,000 x 512 pictures: `bifocal_eval::retrieval` beside numpy and faiss, time and memory.

    pip install faiss-cpu numpy
    cargo build --release --example retrieval_large
    python benches/compare/retrieval_faiss.py [--images 1000000] [--texts 10000] [--dim 512] [--threads 2]

All get the same rows from files and the same number of threads, each in a process of its own, one after the other. Bifocal ranks every caption among all
pictures and every captioned picture among all captions, exactly; numpy and faiss are asked what recall needs (the ten best of both directions), in blocks, as users
write it. Recalls have to agree.
"""

import argparse
import json
import os
import pathlib
import resource
import subprocess
import sys
import tempfile
import time

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--images", type=int, default=1_000_000)
parser.add_argument("--texts", type=int, default=10_000)
parser.add_argument("--dim", type=int, default=512)
parser.add_argument("--threads", type=int, default=os.cpu_count())
parser.add_argument("--binary", default="target/release/examples/retrieval_large")
parser.add_argument("--folder", help="for the rows; default: a temporary one")
parser.add_argument("--engine", help=argparse.SUPPRESS)
arguments = parser.parse_args()
for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "RAYON_NUM_THREADS"):
    os.environ[name] = str(arguments.threads)

import numpy as np  # noqa: E402  (reads the number of threads when it is loaded)

N, M, D = arguments.images, arguments.texts, arguments.dim
BLOCK, K = 1024, 10


def write(folder):
    random = np.random.default_rng(1)
    owners = np.arange(M) * N // M
    unit = lambda rows: (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
    with open(folder / "images.f32", "wb") as images, open(folder / "texts.f32", "wb") as texts:
        for start in range(0, N, 65536):
            rows = unit(random.standard_normal((min(65536, N - start), D), dtype=np.float32))
            images.write(rows.tobytes())
            own = owners[(owners >= start) & (owners < start + len(rows))] - start
            # so far from its picture that some pictures are nearer
            texts.write(unit(rows[own] + 0.2 * random.standard_normal((len(own), D), dtype=np.float32)).tobytes())


def measure(engine, folder):
    images = np.fromfile(folder / "images.f32", np.float32).reshape(N, D)
    texts = np.fromfile(folder / "texts.f32", np.float32).reshape(M, D)
    owners = np.arange(M) * N // M
    asking = images[owners]
    began = time.perf_counter()
    if engine == "numpy":
        def best(queries, rows, block):
            found = []
            for start in range(0, len(queries), block):
                scores = queries[start:start + block] @ rows.T
                top = np.argpartition(scores, -K, axis=1)[:, -K:]
                order = np.argsort(-np.take_along_axis(scores, top, 1), axis=1)
                found.append(np.take_along_axis(top, order, 1))
            return np.concatenate(found)
        to_images, to_texts = best(texts, images, 64), best(asking, texts, BLOCK)
    else:
        import faiss
        faiss.omp_set_num_threads(arguments.threads)
        def best(queries, rows):
            index = faiss.IndexFlatIP(D)
            index.add(rows)
            return index.search(queries, K)[1]
        to_images, to_texts = best(texts, images), best(asking, texts)
    seconds = time.perf_counter() - began
    hit = lambda found, right, k: float((found[:, :k] == right[:, None]).any(1).mean())
    print(json.dumps({
        "engine": engine, "seconds": round(seconds, 2), "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10,
        "t2i_r1": hit(to_images, owners, 1), "t2i_r10": hit(to_images, owners, K), "i2t_r1": hit(to_texts, np.arange(M), 1),
    }), flush=True)


def main():
    if arguments.engine:
        return measure(arguments.engine, pathlib.Path(arguments.folder))
    with tempfile.TemporaryDirectory() as temporary:
        folder = pathlib.Path(arguments.folder or temporary)
        write(folder)
        rows = [str(folder / "images.f32"), str(folder / "texts.f32")]
        found = [json.loads(subprocess.run([arguments.binary, *rows, str(D)], check=True, capture_output=True, text=True).stdout)]
        print(json.dumps(found[0]), flush=True)
        for engine in ("faiss", "numpy"):
            command = [sys.executable, __file__, "--engine", engine, "--folder", str(folder)]
            command += [f"--{name}={getattr(arguments, name)}" for name in ("images", "texts", "dim", "threads")]
            line = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
            print(line, end="", flush=True)
            found.append(json.loads(line))
        for key in ("t2i_r1", "t2i_r10", "i2t_r1"):
            values = [row[key] for row in found]
            assert max(values) - min(values) <= 2 / M, (key, values)


main()

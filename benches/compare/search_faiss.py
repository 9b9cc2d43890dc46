#!/usr/bin/env python3
"""Exact and approximate search over 100,000 x 512 vectors: Bifocal's local store beside faiss (flat, HNSW) and usearch.

    pip install faiss-cpu usearch numpy
    python benches/compare/search_faiss.py [--bench target/release/deps/store-…] [--rows 100000] [--dim 512] [--threads 2]

The vectors have clusters, as embeddings of photos do, and the queries lie apart from them, as embeddings of texts do. All engines get the same
rows and the same number of threads, one after another in turns; medians are printed. Recall is counted against the exact result in f32.
"""

import argparse
import json
import os
import pathlib
import subprocess
import tempfile
import time

import numpy as np

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--bench", help="the built bench; default: cargo bench --bench store")
parser.add_argument("--rows", type=int, default=100_000)
parser.add_argument("--dim", type=int, default=512)
parser.add_argument("--threads", type=int, default=os.cpu_count())
arguments = parser.parse_args()
os.environ["OMP_NUM_THREADS"] = os.environ["RAYON_NUM_THREADS"] = str(arguments.threads)

import faiss  # noqa: E402  (reads the number of threads when it is loaded)
import usearch  # noqa: E402
from usearch.index import Index  # noqa: E402

BATCH, K, RUNS = 64, 10, 7


def unit(rows):
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def vectors():
    random = np.random.default_rng(1)
    centres = random.standard_normal((500, arguments.dim))
    rows = centres[random.integers(0, 500, arguments.rows)] + 0.8 * random.standard_normal((arguments.rows, arguments.dim))
    gap = 1.5 * random.standard_normal(arguments.dim)
    queries = centres[random.integers(0, 500, BATCH)] + 1.5 * random.standard_normal((BATCH, arguments.dim)) + gap
    return unit(rows), unit(queries)


def timed(run):
    begin = time.perf_counter()
    result = run()
    return time.perf_counter() - begin, result


def median_ms(run):
    return 1e3 * float(np.median([timed(run)[0] for _ in range(RUNS)]))


def recall(found, exact):
    return float(np.mean([len(set(f) & set(e)) / K for f, e in zip(found, exact)]))


def report(name, **values):
    print(json.dumps({"engine": name, **{k: round(v, 3) for k, v in values.items()}}), flush=True)


def bifocal(folder):
    command = [arguments.bench] if arguments.bench else ["cargo", "bench", "--bench", "store", "--"]
    command += ["--rows", str(arguments.rows), "--dim", str(arguments.dim), "--data", folder]
    lines = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
    rows = [json.loads(line) for line in lines if line.startswith("{")]
    report("bifocal, exact f16", **{f"{r['what']}, {r['unit']}": r["value"] for r in rows})


def of_faiss(name, index, rows, queries, exact):
    if hasattr(index, "hnsw"):
        index.hnsw.efSearch = 64
    build, _ = timed(lambda: index.add(rows))
    turn = iter(range(10**6))
    report(
        name,
        build_s=build,
        memory_mb=len(faiss.serialize_index(index)) / 1e6,
        query_ms=median_ms(lambda: index.search(queries[next(turn) % BATCH][None], K)),
        batch_each_ms=median_ms(lambda: index.search(queries, K)) / BATCH,
        recall=recall(index.search(queries, K)[1], exact),
    )


def of_usearch(rows, queries, exact):
    index = Index(ndim=arguments.dim, metric="ip", dtype="f16", expansion_search=64)
    build, _ = timed(lambda: index.add(np.arange(len(rows)), rows, threads=arguments.threads))
    turn = iter(range(10**6))
    search = lambda q: index.search(q, K, threads=arguments.threads)  # noqa: E731
    report(
        f"usearch {usearch.__version__} HNSW f16",
        build_s=build,
        memory_mb=index.memory_usage / 1e6,
        query_ms=median_ms(lambda: search(queries[next(turn) % BATCH])),
        batch_each_ms=median_ms(lambda: search(queries)) / BATCH,
        recall=recall(search(queries).keys, exact),
    )


rows, queries = vectors()
exact = np.argsort(-(queries @ rows.T), axis=1)[:, :K]
print(json.dumps({"load": os.getloadavg(), "threads": arguments.threads, "rows": arguments.rows, "dim": arguments.dim}))
with tempfile.TemporaryDirectory() as folder:
    rows.tofile(pathlib.Path(folder) / "rows.f32")
    queries.tofile(pathlib.Path(folder) / "queries.f32")
    for _ in range(2):
        bifocal(folder)
        of_faiss(f"faiss {faiss.__version__} flat f32", faiss.IndexFlatIP(arguments.dim), rows, queries, exact)
    half = faiss.IndexScalarQuantizer(arguments.dim, faiss.ScalarQuantizer.QT_fp16, faiss.METRIC_INNER_PRODUCT)
    half.train(rows)
    of_faiss("faiss flat f16", half, rows, queries, exact)
    of_faiss("faiss HNSW32 f32", faiss.IndexHNSWFlat(arguments.dim, 32, faiss.METRIC_INNER_PRODUCT), rows, queries, exact)
    of_usearch(rows, queries, exact)

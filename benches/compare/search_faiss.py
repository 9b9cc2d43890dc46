#!/usr/bin/env python3
"""Exact and approximate search over 100,000 x 512 vectors: Bifocal's local store beside faiss (flat, HNSW) and usearch.

    pip install faiss-cpu usearch numpy
    cargo bench -p bifocal-search --features hnsw --bench store --no-run
    python benches/compare/search_faiss.py --bench target/release/deps/store-… [--rows 100000] [--dim 512] [--threads 2] [--rounds 9]

The vectors have clusters, as embeddings of photos do, and the queries lie apart from them, as embeddings of texts do. Each engine is a process of
its own with the same rows and the same number of threads; it builds, then all take turns: every round each answers 64 queries one by one and
as a batch. Medians are printed, and the ratio of each engine's time to the exact store's in the same round (above 1: the store is quicker). Recall is
counted against the exact result in f32. Memory is the process's own (without files), after building and at its peak.
"""

import argparse
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time

import numpy as np

import side

BATCH, K = 64, 10
ENGINES = ["bifocal exact f16", "bifocal graph", "faiss flat f32", "faiss flat f16", "faiss HNSW32 f32", "usearch HNSW f16"]

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--bench", help="the built bench (path printed by --no-run)", required=True)
parser.add_argument("--rows", type=int, default=100_000)
parser.add_argument("--dim", type=int, default=512)
parser.add_argument("--threads", type=int, default=os.cpu_count())
parser.add_argument("--rounds", type=int, default=9)
parser.add_argument("--json", type=pathlib.Path, help="append the goals' rows to this file")
parser.add_argument("--only", action="append", help="an engine, as often as wanted: " + ", ".join(ENGINES))
parser.add_argument("--worker", nargs=2, metavar=("ENGINE", "FOLDER"), help=argparse.SUPPRESS)
arguments = parser.parse_args()


def unit(rows):
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def vectors():
    random = np.random.default_rng(1)
    normal = lambda *shape: random.standard_normal(shape, dtype=np.float32)  # noqa: E731
    centres, cone, gap = normal(500, arguments.dim), normal(arguments.dim), 1.5 * normal(arguments.dim)
    rows = cone + centres[random.integers(0, 500, arguments.rows)] + 0.8 * normal(arguments.rows, arguments.dim)
    queries = gap + centres[random.integers(0, 500, BATCH)] + 1.5 * normal(BATCH, arguments.dim)
    return unit(rows), unit(queries)


def of_faiss(name, rows, folder):
    import faiss

    faiss.omp_set_num_threads(arguments.threads)
    if "HNSW" in name:
        index = faiss.IndexHNSWFlat(arguments.dim, 32, faiss.METRIC_INNER_PRODUCT)
        index.hnsw.efSearch = 64
    elif "f16" in name:
        index = faiss.IndexScalarQuantizer(arguments.dim, faiss.ScalarQuantizer.QT_fp16, faiss.METRIC_INNER_PRODUCT)
        index.train(rows)
    else:
        index = faiss.IndexFlatIP(arguments.dim)
    begin = time.perf_counter()
    index.add(rows)
    faiss.write_index(index, f"{folder}/index")
    return time.perf_counter() - begin, lambda queries: index.search(queries, K)[1]


def of_usearch(rows, folder):
    from usearch.index import Index

    index = Index(ndim=arguments.dim, metric="ip", dtype="f16", expansion_search=64)
    begin = time.perf_counter()
    index.add(np.arange(len(rows)), rows, threads=arguments.threads)
    index.save(f"{folder}/index")
    return time.perf_counter() - begin, lambda queries: np.atleast_2d(index.search(queries, K, threads=arguments.threads).keys)


def worker(name, data):
    """Answers lines as the Rust bench does with --turns."""
    rows, queries = np.load(f"{data}/rows.npy"), np.load(f"{data}/queries.npy")
    with tempfile.TemporaryDirectory() as folder:
        build, search = of_usearch(rows, folder) if name.startswith("usearch") else of_faiss(name, rows, folder)
        del rows
        print(json.dumps({"what": "build", "value": build}))
        print(json.dumps({"what": "disk", "value": pathlib.Path(f"{folder}/index").stat().st_size / 1e6}), flush=True)
    for line in sys.stdin:
        begin = time.perf_counter()
        found = [search(query[None])[0] for query in queries] if line.strip() == "single" else search(queries)
        passed = 1e3 * (time.perf_counter() - begin) / len(queries)
        print(json.dumps({"ms": passed, "rows": np.array(found).tolist()}), flush=True)


class Engine:
    def __init__(self, name, data):
        self.name, self.told, self.times = name, {}, {"single": [], "batch": []}
        command = [sys.executable, __file__, "--bench", arguments.bench, "--dim", str(arguments.dim), "--threads", str(arguments.threads)]
        command += ["--worker", name, data]
        if name.startswith("bifocal"):
            command = [arguments.bench, "--bench", "--data", data, "--turns"] + ["--graph"] * name.endswith("graph")
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.ask("batch")  # also waits until it is built, and warms it up

    def ask(self, what):
        print(what, file=self.process.stdin, flush=True)
        for line in self.process.stdout:
            answer = json.loads(line)
            if "ms" in answer:
                return answer
            self.told[answer["what"]] = answer["value"]
        sys.exit(f"{self.name} ended: {self.process.wait()}")

    def turn(self):
        for what, times in self.times.items():
            times.append(self.ask(what)["ms"])

    def memory(self):
        status = pathlib.Path(f"/proc/{self.process.pid}/status").read_text()
        kilobytes = {line.split(":")[0]: line.split()[1] for line in status.splitlines() if "kB" in line}
        return [int(kilobytes[name]) * 1024 / 1e6 for name in ("RssAnon", "VmHWM")]


def main():
    load = os.getloadavg()
    names = [name for name in ENGINES if not arguments.only or name in arguments.only or name == ENGINES[0]]
    with tempfile.TemporaryDirectory() as data:
        rows, queries = vectors()
        np.save(f"{data}/rows.npy", rows), np.save(f"{data}/queries.npy", queries)
        exact = np.argsort(-(queries @ rows.T), axis=1)[:, :K]
        del rows
        os.environ.update(OMP_NUM_THREADS=str(arguments.threads), RAYON_NUM_THREADS=str(arguments.threads))
        engines = [Engine(name, data) for name in names]  # one after another: none builds while another does
        for _ in range(arguments.rounds):
            [engine.turn() for engine in engines]
        print(f"{arguments.rows} x {arguments.dim}, {arguments.threads} threads, {arguments.rounds} rounds, load {load[0]:.1f}\n")
        print("| | build s | disk MB | memory MB | peak MB | 1 query ms | ratio | of 64 ms | ratio | recall@10 |")
        print("|---|---|---|---|---|---|---|---|---|---|")
        for engine in engines:
            found = engine.ask("single")["rows"]
            recall = np.mean([len(set(f) & set(e)) / K for f, e in zip(found, exact)])
            memory, peak = engine.memory()
            cells = [f"{engine.told['build']:.1f}", f"{engine.told['disk']:.0f}", f"{memory:.0f}", f"{peak:.0f}"]
            for what, times in engine.times.items():
                ratio = np.median(np.array(times) / np.array(engines[0].times[what]))
                cells += [f"{np.median(times):.3f}", f"{ratio:.2f}"]
            print(f"| {engine.name} | {' | '.join(cells)} | {recall:.3f} |")
        table = side.Table(arguments)
        for what, name in (("single", "one query at a time"), ("batch", f"{BATCH} at once")):
            for engine in engines:
                if engine.name == "faiss flat f32":
                    ratios = sorted(np.array(engine.times[what]) / np.array(engines[0].times[what]))
                    mine, theirs = (1e3 / np.median(times) for times in (engines[0].times[what], engine.times[what]))
                    table.add({"work": f"exact search {arguments.rows} × {arguments.dim}, {name}", "unit": "queries/s", "goal": 1.0, "peer": engine.name, "ours": mine, "theirs": theirs,
                               "ratio": float(np.median(ratios)), "quartiles": [float(np.quantile(ratios, q)) for q in (0.25, 0.75)], "share": None,
                               "note": "ours keeps f16", "others": {}})
        print(f"\nBifocal, opening and first query: {engines[0].told['opening and first query']:.0f} ms")
        for engine in engines:
            engine.process.stdin.close()
            engine.process.wait()


worker(*arguments.worker) if arguments.worker else main()

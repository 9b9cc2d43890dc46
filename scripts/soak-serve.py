#!/usr/bin/env python3
"""A long time of mixed load on a running `bifocal serve --store`: memory, open files and threads stay flat, and nothing but the expected statuses comes back.

    bifocal serve --store demo/store --listen 127.0.0.1:8080 &
    scripts/soak-serve.py http://127.0.0.1:8080 --pid $! --picture samples/photos/images/000000012280.jpg --minutes 60

Texts, pictures, searches, the map, labels, pages of items, bad requests, clients that go away in the middle, readers that hardly read: each kind at its own rate.
Every ten seconds a line with what the process holds. Python's standard library and Linux's /proc. Ends with 1 when something grows or does not come back.
"""
import argparse
import base64
import collections
import http.client
import json
import os
import random
import socket
import statistics
import sys
import threading
import time
import urllib.parse

# Judged on the second half of the run: a straight line through the resident memory, in MiB an hour, and the same as a part of what is held.
MIB_AN_HOUR, PART_AN_HOUR = 24, 0.05


def process(pid):
    """Resident memory in MiB, open files, threads."""
    status = dict(line.split(":", 1) for line in open(f"/proc/{pid}/status"))
    return int(status["VmRSS"].split()[0]) / 1024, len(os.listdir(f"/proc/{pid}/fd")), int(status["Threads"])


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("url")
    parser.add_argument("--pid", type=int, required=True)
    parser.add_argument("--picture", required=True)
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--rate", type=float, default=1, help="a factor on all rates")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", action="append", help="a kind of load, as often as wanted, to find which one it is that takes memory")
    args = parser.parse_args()
    target = urllib.parse.urlsplit(args.url)
    picture = open(args.picture, "rb").read()
    uri = "data:image/jpeg;base64," + base64.b64encode(picture).decode()
    words = "a dog cat train beach red car people street snow night two men kitchen horse ball ein Hund am Strand 海 犬".split()

    def ask(method, path, body=None):
        connection = http.client.HTTPConnection(target.netloc, timeout=60)
        try:
            data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
            connection.request(method, path, data, {"content-type": "application/json"} if data else {})
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()

    keys = [item["key"] for item in json.loads(ask("GET", "/v1/items?limit=50")[1])["results"]]
    text = lambda draw: " ".join(draw.choices(words, k=draw.randint(1, 12)))

    def raw(path, body, length):
        """An open connection on which a request for `path` has begun: a head that promises `length` bytes, and `body`."""
        stream = socket.create_connection((target.hostname, target.port), timeout=60)
        stream.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        stream.sendall(f"POST {path} HTTP/1.1\r\nhost: {target.netloc}\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n".encode() + body)
        return stream

    def goes_away(draw):
        body = json.dumps({"input": [text(draw) for _ in range(16)]}).encode()
        part = body if draw.random() < 0.5 else body[: len(body) // 2]
        stream = raw("/v1/embeddings", part, len(body))
        time.sleep(draw.uniform(0, 0.2))
        stream.close()

    def slow_reader(draw):
        """Asks for megabytes and takes a hundred bytes a second for a while, or until the server has had enough."""
        body = json.dumps({"input": ["a dog"] * 512}).encode()
        stream = raw("/v1/embeddings", body, len(body))
        until = time.monotonic() + draw.uniform(5, 60)
        try:
            while time.monotonic() < until and stream.recv(100):
                time.sleep(1)
        except OSError:
            pass
        stream.close()

    def bad(draw):
        return draw.choice([
            lambda: ask("POST", "/v1/embeddings", b'{"input": ['),
            lambda: ask("POST", "/v1/embeddings", {"input": []}),
            lambda: ask("POST", "/v1/embeddings", {"input": [{"image": "data:image/png;base64,iVBORw0KGgo="}]}),
            lambda: ask("POST", "/v1/embeddings", {"input": [{"image": "http://169.254.169.254/latest/meta-data"}]}),
            lambda: ask("POST", "/v1/embeddings", {"input": [{"image": "data:image/jpeg;base64," + base64.b64encode(picture[: len(picture) // 3]).decode()}]}),
            lambda: ask("POST", "/v1/search", {"query": "dog", "where": "size > > 3"}),
            lambda: ask("POST", "/v1/search", {"like": "no such key"}),
            lambda: ask("POST", "/v1/classify", {"labels": []}),
            lambda: ask("GET", "/v1/items/picture?key=../../etc/passwd"),
            lambda: ask("GET", "/v1/nothing"),
        ])()[0]

    quote = lambda key: urllib.parse.quote(key, safe="")
    # Kind, requests a second, what it does with a source of random numbers (giving the status, if there is one), the statuses that are right.
    kinds = [
        ("text", 1, lambda draw: ask("POST", "/v1/embeddings", {"input": [text(draw) for _ in range(draw.randint(1, 8))]})[0], {200}),
        ("picture", 0.5, lambda draw: ask("POST", "/v1/embeddings", {"input": [{"image": uri}]})[0], {200}),
        ("search", 1, lambda draw: ask("POST", "/v1/search", {"query": text(draw), "k": 10, "where": draw.choice(["size > 0", "ext = jpg"])})[0], {200}),
        ("like", 1, lambda draw: ask("POST", "/v1/search", {"like": draw.choice(keys), "k": 20})[0], {200}),
        ("map", 0.2, lambda draw: ask("GET", "/v1/map")[0], {200}),
        ("classify", 0.2, lambda draw: ask("POST", "/v1/classify", {"input": [{"image": uri}], "labels": ["dog", "cat", text(draw)]})[0], {200}),
        ("items", 0.5, lambda draw: ask("GET", "/v1/items?limit=50")[0], {200}),
        ("thumbnail", 2, lambda draw: ask("GET", "/v1/items/thumbnail?key=" + quote(draw.choice(keys)))[0], {200}),
        ("bad", 1, bad, {400, 404, 415, 422}),
        ("goes away", 0.5, goes_away, {None}),
        ("slow reader", 0.1, slow_reader, {None}),
    ]
    kinds = [kind for kind in kinds if not args.only or kind[0] in args.only]
    seen, wrong, times, lock, done = collections.Counter(), collections.Counter(), [], threading.Lock(), threading.Event()

    def once(name, act, right, draw):
        begin = time.monotonic()
        try:
            status = act(draw)
        except OSError as error:
            status = type(error).__name__
        with lock:
            seen[name] += 1
            if status not in right:
                wrong[name, status] += 1
            if status == 200:
                times.append(time.monotonic() - begin)

    def client(name, rate, act, right, seed):
        draw, late = random.Random(seed), []
        while not done.wait(draw.expovariate(rate * args.rate)):
            if name == "slow reader":
                late = [thread for thread in late if thread.is_alive()] + [threading.Thread(target=once, args=(name, act, right, random.Random(draw.random())))]
                late[-1].start()
            else:
                once(name, act, right, draw)
        [thread.join() for thread in late]

    # What the first requests of each kind allocate for good belongs to the start.
    [once(name, act, right, random.Random(0)) for name, _, act, right in kinds if name != "slow reader"]
    time.sleep(2)
    first, begin, rows = process(args.pid), time.monotonic(), []
    print(f"start: {first[0]:.0f} MiB, {first[1]} files, {first[2]} threads\nminute  MiB  files  threads  requests  p50 ms  p99 ms", flush=True)
    clients = [threading.Thread(target=client, args=(*kind, args.seed * 100 + i)) for i, kind in enumerate(kinds)]
    [thread.start() for thread in clients]
    try:
        while (now := time.monotonic() - begin) < args.minutes * 60:
            time.sleep(10)
            with lock:
                recent, count = sorted(times), sum(seen.values())
                times.clear()
            rows.append((now + 10, *process(args.pid)))
            at = lambda part: 1000 * recent[int(part * (len(recent) - 1))] if recent else float("nan")
            print(f"{rows[-1][0] / 60:6.1f} {rows[-1][1]:5.0f} {rows[-1][2]:5} {rows[-1][3]:7} {count:9} {at(0.5):8.1f} {at(0.99):7.1f}", flush=True)
    finally:
        done.set()
        [thread.join() for thread in clients]
    time.sleep(15)
    last = process(args.pid)
    half = rows[len(rows) // 2 :]
    slope = statistics.linear_regression([row[0] / 3600 for row in half], [row[1] for row in half]).slope if len(half) > 1 else 0
    allowed = max(MIB_AN_HOUR, PART_AN_HOUR * last[0])
    print(f"end: {last[0]:.0f} MiB, {last[1]} files, {last[2]} threads; {dict(seen)}")
    print(f"memory over the second half: {slope:+.1f} MiB an hour (at most {allowed:.0f}), at most {max(row[1] for row in rows):.0f} MiB; wrong answers: {dict(wrong)}")
    good = slope <= allowed and last[1] <= first[1] + 2 and last[2] <= first[2] + 2 and not wrong
    print("flat" if good else "NOT FLAT")
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    main()

#!/usr/bin/env python3
"""How long a search takes beside a client that embeds in bulk, on a running `bifocal serve --store`, and what the bulk client gets.

    bifocal serve --store demo/store --listen 127.0.0.1:8080 &
    scripts/bulk-serve.py http://127.0.0.1:8080 --texts captions.txt

The bulk client sends requests of 512 texts, one after another: first alone, then beside searches, which come twice a second. Python's standard library only.
"""
import argparse
import http.client
import itertools
import json
import statistics
import threading
import time
import urllib.parse


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("url")
    parser.add_argument("--texts", required=True, help="a file with a text a line")
    parser.add_argument("--seconds", type=float, default=60, help="for each of the two parts")
    parser.add_argument("--size", type=int, default=512, help="texts of a request")
    args = parser.parse_args()
    netloc = urllib.parse.urlsplit(args.url).netloc
    texts = itertools.cycle([line.strip() for line in open(args.texts, encoding="utf-8") if line.strip()])

    def post(connection, path, body):
        begin = time.monotonic()
        connection.request("POST", path, json.dumps(body), {"content-type": "application/json"})
        answer = connection.getresponse()
        answer.read()
        assert answer.status == 200, answer.status
        return time.monotonic() - begin

    def part(name, search):
        """Bulk requests until the time is over; what they get is counted to the end of the last one."""
        times, done, begin, sent = [], threading.Event(), time.monotonic(), 0

        def searches():
            connection = http.client.HTTPConnection(netloc, timeout=60)
            while not done.is_set():
                times.append(post(connection, "/v1/search", {"query": next(texts), "k": 10}))
                done.wait(max(0, 0.5 - times[-1]))

        searcher = threading.Thread(target=searches)
        if search:
            searcher.start()
        connection = http.client.HTTPConnection(netloc, timeout=60)
        while time.monotonic() - begin < args.seconds:
            post(connection, "/v1/embeddings", {"input": [next(texts) for _ in range(args.size)]})
            sent += args.size
        rate = sent / (time.monotonic() - begin)
        done.set()
        if search:
            searcher.join()
        told = f"; {len(times)} searches, median {statistics.median(times):.2f} s, longest {max(times):.2f} s" if times else ""
        print(f"{name}: {rate:.1f} texts/s{told}", flush=True)

    part("bulk alone          ", False)
    part("bulk beside searches", True)


if __name__ == "__main__":
    main()

#!/usr/bin/env python3
"""Ten times what a running `bifocal serve` can do: only 200, 429 and 503 come back, memory stays bounded, and afterwards all is as before.

    bifocal serve --model M --queue 64 --listen 127.0.0.1:8080 &
    scripts/load-serve.py http://127.0.0.1:8080 --picture samples/photos/images/000000012280.jpg --seconds 60

First one client after the other, which gives the capacity; then that many requests times ten per second, whatever comes back. Python's standard library only.
Prints a table and ends with 1 when something is not as it should be.
"""
import argparse
import base64
import collections
import http.client
import json
import re
import sys
import threading
import time
import urllib.parse


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("url")
    parser.add_argument("--picture", required=True)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--clients", type=int, default=200)
    parser.add_argument("--times", type=float, default=10)
    args = parser.parse_args()
    netloc = urllib.parse.urlsplit(args.url).netloc
    uri = "data:image/jpeg;base64," + base64.b64encode(open(args.picture, "rb").read()).decode()
    bodies = [json.dumps({"input": [{"image": uri}]}), json.dumps({"input": [f"a dog on beach number {i}" for i in range(8)]})]

    def call(connection, i):
        connection.request("POST", "/v1/embeddings", bodies[i % 2], {"content-type": "application/json"})
        answer = connection.getresponse()
        answer.read()
        return answer.status

    def metric(name):
        connection = http.client.HTTPConnection(netloc, timeout=30)
        connection.request("GET", "/metrics")
        text = connection.getresponse().read().decode()
        return float(re.search(rf"^{name} (\S+)$", text, re.M).group(1))

    def drive(clients, seconds, rate):
        """`rate` requests a second over all clients; without one, each client sends as fast as it is answered."""
        seen, times, lock, begin = collections.Counter(), [], threading.Lock(), time.monotonic()

        def client(number):
            connection, sent = http.client.HTTPConnection(netloc, timeout=120), 0
            while (now := time.monotonic() - begin) < seconds:
                if rate:
                    wait = sent * clients / rate - now
                    if wait > 0:
                        time.sleep(wait)
                sent += 1
                asked = time.monotonic()
                try:
                    status = call(connection, number + sent)
                except OSError as error:
                    status, connection = type(error).__name__, http.client.HTTPConnection(netloc, timeout=120)
                with lock:
                    seen[status] += 1
                    if status == 200:
                        times.append(time.monotonic() - asked)

        threads = [threading.Thread(target=client, args=(number,)) for number in range(clients)]
        [thread.start() for thread in threads]
        [thread.join() for thread in threads]
        return seen, sorted(times)

    p99 = lambda times: times[int(0.99 * (len(times) - 1))] if times else float("nan")
    seen, calm = drive(4, min(10, args.seconds), None)
    capacity = seen[200] / min(10, args.seconds)
    before = metric("process_resident_memory_bytes")
    peak, done = [before], threading.Event()

    def watch():
        while not done.wait(0.5):
            peak.append(metric("process_resident_memory_bytes"))

    watcher = threading.Thread(target=watch)
    watcher.start()
    seen, times = drive(args.clients, args.seconds, args.times * capacity)
    done.set()
    watcher.join()
    ended = time.monotonic()
    connection = http.client.HTTPConnection(netloc, timeout=30)
    while call(connection, 1) != 200:
        time.sleep(0.02)
    recovered = time.monotonic() - ended
    total = sum(seen.values())
    print(f"capacity      {capacity:.1f} requests/s, p99 {p99(calm):.3f} s (4 clients)")
    print(f"overload      {total / args.seconds:.1f} requests/s for {args.seconds:.0f} s: {dict(seen)}")
    print(f"accepted      {seen[200] / args.seconds:.1f} requests/s, p99 {p99(times):.3f} s")
    print(f"memory        {before / 2**20:.0f} MiB before, at most {max(peak) / 2**20:.0f} MiB")
    print(f"recovered in  {recovered:.2f} s")
    good = set(seen) <= {200, 429, 503} and seen[200] > 0 and recovered < 2
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    main()

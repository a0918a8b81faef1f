#!/usr/bin/env python3
"""Our eviction policies and Belady's beside libCacheSim's: the same traces, default parameters, hits must be equal.

  python3 -m venv VENV && VENV/bin/pip install libcachesim
  VENV/bin/python scripts/check_policies.py [--dogstar build/release/dogstar] [--requests 200000] [--trace RECORDED ...]

Traces: Zipf (0.9, 20000 keys), the same with a loop of 1500 keys and single scans mixed in, and each --trace (from
dogstar run --record), its first --requests requests. Exit code 1 and a line per difference. Sizes are multiples of 20,
so that shares of a cache (10%, 25%, quarters) are whole numbers in both; give larger ones with --slots where a trace
asks for more keys within a token.
"""

import argparse
import bisect
import itertools
import json
import os
import random
import subprocess
import sys
import tempfile

import libcachesim

import repository

# Ours -> theirs. lfu-aged, least-stale and static-hot have no counterpart there.
THEIRS = {"fifo": "FIFO", "lru": "LRU", "lfu": "LFU", "clock": "Clock", "2q": "TwoQ", "arc": "ARC", "slru": "SLRU",
          "s3fifo": "S3FIFO", "sieve": "Sieve", "belady": "Belady"}
SLOTS = "20,100,1000,5000"


def zipf(count, keys, exponent, rng):
    sums = list(itertools.accumulate((k + 1) ** -exponent for k in range(keys)))
    return [bisect.bisect_left(sums, rng.random() * sums[-1]) for _ in range(count)]


def mixed(count, rng):
    """Pieces of 500 requests: half of them Zipf, the others a loop or keys that never come again."""
    trace, loop, fresh = [], 0, 1 << 30
    while len(trace) < count:
        kind = rng.random()
        if kind < 0.5:
            trace += zipf(500, 20000, 0.9, rng)
        elif kind < 0.8:
            trace += [(1 << 20) + (loop + i) % 1500 for i in range(500)]
            loop += 500
        else:
            trace += range(fresh, fresh + 500)
            fresh += 500
    return trace


def recorded(dogstar, path, count):
    """The requests of a recorded run as ids, layer * 2^32 + row."""
    listed = subprocess.run([dogstar, "simulate", path, "--list"], check=True, capture_output=True, text=True).stdout
    return [int(line) for line in itertools.islice(listed.splitlines(), count)]


def next_uses(trace):
    """Place of the same key's next request; libCacheSim's Belady wants the largest number where there is none."""
    later, uses = {}, [0] * len(trace)
    for place in range(len(trace) - 1, -1, -1):
        uses[place] = later.get(trace[place], (1 << 63) - 1)
        later[trace[place]] = place
    return uses


def their_hits(name, slots, trace, uses):
    cache = getattr(libcachesim, name)(cache_size=slots)
    request = libcachesim.Request()
    request.obj_size = 1
    hits = 0
    for key, use in zip(trace, uses):
        request.obj_id = key
        request.next_access_vtime = use
        hits += cache.get(request)
    return hits


def our_rows(dogstar, trace, slots):
    with tempfile.NamedTemporaryFile("w", suffix=".csv") as file:
        file.write("".join(f"{key}\n" for key in trace))
        file.flush()
        command = [dogstar, "simulate", "--csv", file.name, "--json", "--slots", slots, "--policies", ",".join(THEIRS)]
        return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)["results"]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dogstar", default=os.path.join(repository.ROOT, "build/release/dogstar"))
    parser.add_argument("--requests", type=int, default=200000)
    parser.add_argument("--slots", default=SLOTS)
    parser.add_argument("--trace", action="append", default=[])
    options = parser.parse_args()
    rng = random.Random(1)
    traces = {"zipf": zipf(options.requests, 20000, 0.9, rng), "mixed": mixed(options.requests, rng)}
    for path in options.trace:
        traces[os.path.basename(path)] = recorded(options.dogstar, path, options.requests)
    different = 0
    print(f"{'trace':12} {'policy':8} {'slots':>6} {'hits':>8} {'libCacheSim':>12}")
    for name, trace in traces.items():
        uses = next_uses(trace)
        for row in our_rows(options.dogstar, trace, options.slots):
            theirs = their_hits(THEIRS[row["policy"]], row["slots"], trace, uses)
            mark = "" if theirs == row["hits"] else f"  {row['hits'] - theirs:+d}"
            different += mark != ""
            print(f"{name:12} {row['policy']:8} {row['slots']:6} {row['hits']:8} {theirs:12}{mark}", flush=True)
    print(f"{different} differences")
    return 1 if different else 0


if __name__ == "__main__":
    sys.exit(main())

#!/usr/bin/env python3
"""Tokens per full pass with and without an overlay, and with one that follows the text.

  scripts/bench_cache.py PACKED_MODEL --prompts FILE.jsonl:FIELD[,...] [--ram 84MiB,88MiB] [--count 5] [--tokens 64]
                         [--settings NAME=KEY:VALUE[+KEY:VALUE...] ...]

The first --count lines of each file are prompts, as chat messages. Fixed period 8, so that times decide nothing; one
thread, through the page cache: acceptance does not depend on either. accepted_mean is over all cycles of all prompts;
"wins" counts prompts with more (fewer) tokens a pass than the first setting. Prints a table in Markdown.
"""
import argparse
import json

from dogstar_runs import DEFAULT_PROGRAM, run

FIXED = ["--mode", "strict", "-t", "1", "--ignore-eos", "--set", "corrector.adaptive=false", "--set",
         "corrector.period=8", "--set", "io.direct=never"]
DEFAULTS = ["prefix=cache.harvest:off", "prompt=cache.harvest:prompt", "text=cache.harvest:text"]


def read_prompts(sources, count):
    prompts = []
    for source in sources.split(","):
        path, field = source.rsplit(":", 1)
        with open(path) as file:
            prompts += [json.loads(line)[field] for line, _ in zip(file, range(count))]
    return prompts


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--program", default=DEFAULT_PROGRAM)
    parser.add_argument("--prompts", required=True)
    parser.add_argument("--ram", default="84MiB,88MiB", help="budgets; none: everything resident")
    parser.add_argument("--count", type=int, default=5)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--settings", nargs="+", default=DEFAULTS)
    args = parser.parse_args()

    prompts = read_prompts(args.prompts, args.count)
    print("| budget | setting | accepted_mean | wins | density | hits | rows in a cycle |")
    print("|---|---|---|---|---|---|---|")
    for ram in args.ram.split(","):
        first = None
        for setting in args.settings:
            name, _, keys = setting.partition("=")
            options = [*FIXED] + ([] if ram == "none" else ["--ram", ram])
            for key in keys.split("+"):
                options += ["--set", key.replace(":", "=")]
            runs = [run(args.program, args.model, prompt, args.tokens, options) for prompt in prompts]
            cycles = sum(r["cycles"] for r in runs)
            mean = sum(r["accepted_mean"] * r["cycles"] for r in runs) / cycles
            means = [r["accepted_mean"] for r in runs]
            first = first or means
            wins = sum(a > b for a, b in zip(means, first))
            losses = sum(a < b for a, b in zip(means, first))
            density = sum(r["resident_density"] for r in runs) / len(runs)
            caches = [r["cache"] for r in runs if "cache" in r]
            hits = sum(c["hits"] for c in caches)
            asked = hits + sum(c["misses"] for c in caches)
            admitted = sum(c["admissions"] - c["slots"] for c in caches) / cycles if asked else 0
            print(f"| {ram} | {name} | {mean:.3f} | {wins} ({losses}) | {density:.3f} | "
                  f"{f'{hits / asked:.3f}' if asked else ''} | {f'{admitted:.0f}' if asked else ''} |", flush=True)


if __name__ == "__main__":
    main()

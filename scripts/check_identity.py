#!/usr/bin/env python3
"""Strict text is the dense text, byte for byte: prompts by settings drawn from a grid.

  scripts/check_identity.py PACKED_MODEL --budgets 76MiB,84MiB,none [--prompts FILE.jsonl --field question --count 50]
                            [--samples 6] [--tokens 32] [--statistics FILE]

For each prompt: a dense run with room for everything, greedy and with temperature 0.8 and a seed, then --samples strict
runs with settings drawn from the grid: predictor, density, period (fixed or adaptive), shape of the drafts (chain,
beams, best-first trees, lookups, repairs), budget, threads, rows that follow the text. The draw is seeded: a run repeats.
Also says how often drafts stood, and whether every peak stayed within its budget. Exit code 1 where a text differs, a
budget is broken or nothing was drafted. Without --prompts: scripts/prompts/ten.txt.
"""
import argparse
import collections
import json
import pathlib
import random
import sys

from dogstar_runs import DEFAULT_PROGRAM, run, ten_prompts

PREDICTORS = ["resident", "griffin", "gate", "gate-weighted", "two-stage", "magnitude", "contribution", "random",
              "weight-norm", "lag"]
CALIBRATED = ["hot", "attribution", "threshold", "low-rank"]
TREES = [[], [], ["tree=best"], ["tree=best", "width=1", "nodes=12"], ["tree=best", "width=2", "nodes=24"],
         ["tree=beam", "width=2"], ["tree=beam", "width=4", "nodes=20"], ["lookup=2"]]


def draw(dice, args):
    """Options of a strict run, and what they are called."""
    predictor = dice.choice(PREDICTORS + (CALIBRATED if args.statistics else []))
    options = ["--mode", "strict", "--predictor", predictor, "--density", dice.choice(["0.3", "0.5", "0.7", "0.9", "1"]),
               "--period", dice.choice(["2", "4", "8", "16"]), "-t", dice.choice(["1", "2"])]
    settings = [f"draft.{setting}" for setting in dice.choice(TREES)]
    settings.append(f"corrector.adaptive={dice.choice(['true', 'false', 'false'])}")
    if dice.random() < 0.2:
        settings.append("corrector.repair=true")
    if dice.random() < 0.2:
        settings.append("cache.harvest=text")
    if dice.random() < 0.3:
        settings.append(f"draft.attention_planes={dice.choice(['0.5', '1'])}")
    if args.statistics:
        settings.append(f"draft.statistics={args.statistics}")
    for setting in settings:
        options += ["--set", setting]
    budget = dice.choice(args.budgets.split(","))
    return options + ([] if budget == "none" else ["--ram", budget])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--program", default=DEFAULT_PROGRAM)
    parser.add_argument("--budgets", default="84MiB,none")
    parser.add_argument("--prompts", help="a line of JSON each")
    parser.add_argument("--field", default="question")
    parser.add_argument("--count", type=int, default=50)
    parser.add_argument("--samples", type=int, default=6)
    parser.add_argument("--tokens", type=int, default=32)
    parser.add_argument("--statistics", help="what dogstar calibrate wrote")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--raw", action="store_true", help="prompts as they are, not as chat messages")
    args = parser.parse_args()

    prompts = ten_prompts()
    if args.prompts:
        lines = pathlib.Path(args.prompts).read_text().splitlines()
        prompts = [json.loads(line)[args.field] for line in lines if line.strip()][:args.count]
    dice = random.Random(args.seed)
    runs = different = over_budget = drafting = 0
    accepted = collections.Counter()
    for prompt in prompts:
        dense = {}
        for sampling in (("--temp", "0"), ("--temp", "0.8", "--seed", "7")):
            dense[sampling] = run(args.program, args.model, prompt, args.tokens, ["--mode", "dense", *sampling],
                                  not args.raw)
        for _ in range(args.samples):
            sampling = dice.choice(list(dense))
            options = draw(dice, args)
            result = run(args.program, args.model, prompt, args.tokens, [*options, *sampling], not args.raw)
            runs += 1
            if (result["text"], result["tokens"]) != (dense[sampling]["text"], dense[sampling]["tokens"]):
                different += 1
                print(f"differs: {' '.join([*options, *sampling])}: {prompt}", flush=True)
            if result["budget_bytes"] and result["peak_rss_bytes"] > result["budget_bytes"]:
                over_budget += 1
                print(f"over its budget: {' '.join([*options, *sampling])}", flush=True)
            drafting += result["drafted"] > 0
            accepted["tokens"] += result["accepted_mean"] * result["cycles"]
            accepted["passes"] += result["cycles"]
    print(f"{len(prompts)} prompts, {runs} strict runs: {different} differ from dense, {over_budget} over their budget; "
          f"{drafting} drafted, {accepted['tokens'] / accepted['passes']:.2f} tokens a full pass")
    sys.exit(0 if different == 0 and over_budget == 0 and drafting > 0 else 1)


if __name__ == "__main__":
    main()

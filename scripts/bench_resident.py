#!/usr/bin/env python3
"""Tokens per full pass of strict mode against the bytes of the FFN that are resident, for ways to choose them.

  scripts/bench_resident.py PACKED_MODEL --shares 0.6,0.7,0.8,0.9 [--ways rows,planes,csparse] [--period 16] [--csv FILE]

A share is that of the FFN's bytes in memory. Each way is run under a budget that gives about that share; what it gave is
in the table. Ways:
  rows      the packed file's first rows, whole
  planes    whole rows and high bit planes, as the planner mixes them
  csparse   as many rows as that share, chosen by the prompt (griffin), of a model that is in memory as a whole
  NAME+...  with a suffix for each of: best (best-first trees of 32 nodes), residual (with --statistics)
Ten prompts (scripts/prompts/ten.txt), as chat messages or, with --raw, as they are. Fixed periods; with --adaptive
strict mode's own. Ways take turns prompt by prompt, and every strict text is compared with the dense one. Prints a table
in Markdown.
"""
import argparse
import csv
import statistics

from dogstar_runs import DEFAULT_PROGRAM, run, ten_prompts

FFN = ("FFN rows, prefix", "FFN rows, high planes")
# Of one pass and of a token: what streams, and what a draft reads of the resident part.
COLUMNS = ("way", "share", "resident", "tokens_a_pass", "streamed_mib", "draft_rows", "passes", "tok_s", "of_dense",
           "differing")


def options_of(way, share, budget, args):
    name, *suffixes = way.split("+")
    options = ["--mode", "strict", "--period", args.period, "--set", "draft.vocabulary=0", "--set", "draft.lookup=0"]
    if not args.adaptive:
        options += ["--set", "corrector.adaptive=false"]
    if name == "csparse":
        options += ["--predictor", "griffin", "--density", str(share), "--set", "cache.harvest=off"]
    else:
        options += ["--ram", str(budget), "--set", f"draft.planes={0 if name == 'rows' else -1}"]
    if "best" in suffixes:
        options += ["--set", "draft.tree=best", "--set", "draft.nodes=32"]
    if "residual" in suffixes:
        options += ["--set", f"draft.statistics={args.statistics}"]
    return options


def resident_share(result, ffn):
    return sum(result["memory"].get(part, 0) for part in FFN) / ffn


def find_budgets(args, shares):
    """Bytes for which about each share of the FFN is resident: from what holds everything, then corrected twice."""
    def probe(ram):
        return run(args.program, args.model, "x", 2, ["--mode", "strict", "--ram", str(ram), "--period", args.period,
                                                       "--set", "draft.vocabulary=0", "--set", "draft.planes=0",
                                                       "--set", "corrector.adaptive=false"], not args.raw)
    whole = probe(args.all)
    if whole["complement_bytes"] > 0:
        raise SystemExit(f"--all {args.all} does not hold the whole model")
    ffn = whole["memory"][FFN[0]]
    budgets = {}
    for share in shares:
        budget = sum(whole["memory"].values()) - (1 - share) * ffn
        for _ in range(2):
            budget += (share - resident_share(probe(int(budget)), ffn)) * ffn
        budgets[share] = int(budget)
    return ffn, budgets


def measure(args, ffn, share, budget, ways, prompts):
    results, dense_rates = {way: [] for way in ways}, []
    differing = dict.fromkeys(ways, 0)
    for prompt in prompts:
        dense = run(args.program, args.model, prompt, args.tokens, ["--mode", "dense", "--ram", str(budget)],
                    not args.raw)
        dense_rates.append(dense["decode_tok_s"])
        for way in ways:
            result = run(args.program, args.model, prompt, args.tokens, options_of(way, share, budget, args),
                         not args.raw)
            differing[way] += result["tokens"] != dense["tokens"]
            results[way].append(result)
    for way in ways:
        runs = results[way]
        cycles = sum(r["cycles"] for r in runs)
        rates = [r["decode_tok_s"] for r in runs]
        resident = statistics.mean(resident_share(r, ffn) for r in runs)
        by_bytes = not way.startswith("csparse")
        yield dict(zip(COLUMNS, (
            way, share, round(resident if by_bytes else share, 3),
            round(sum(r["accepted_mean"] * r["cycles"] for r in runs) / cycles, 3),
            round(statistics.mean(r["complement_bytes"] for r in runs) / 2**20, 2) if by_bytes else "",
            round(statistics.mean(r["density"] for r in runs), 3), cycles,
            round(statistics.median(rates), 1),
            round(statistics.median(a / b for a, b in zip(rates, dense_rates)), 2) if by_bytes else "",
            differing[way])))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--program", default=DEFAULT_PROGRAM)
    parser.add_argument("--shares", default="0.6,0.7,0.8,0.9")
    parser.add_argument("--ways", default="csparse,rows,planes")
    parser.add_argument("--period", default="16")
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--prompts", type=int, default=10)
    parser.add_argument("--raw", action="store_true", help="prompts as they are, no chat template")
    parser.add_argument("--adaptive", action="store_true")
    parser.add_argument("--statistics", help="what dogstar calibrate wrote, for +residual")
    parser.add_argument("--all", default="4GiB", help="a budget that holds the whole model")
    parser.add_argument("--csv")
    args = parser.parse_args()

    shares = [float(share) for share in args.shares.split(",")]
    ffn, budgets = find_budgets(args, shares)
    rows = []
    print("| " + " | ".join(COLUMNS) + " |\n" + "|---" * len(COLUMNS) + "|")
    for share in shares:
        for row in measure(args, ffn, share, budgets[share], args.ways.split(","), ten_prompts()[:args.prompts]):
            print("| " + " | ".join(str(row[column]) for column in COLUMNS) + " |", flush=True)
            rows.append(row)
    if args.csv:
        with open(args.csv, "w", newline="") as file:
            writer = csv.DictWriter(file, COLUMNS)
            writer.writeheader()
            writer.writerows(rows)


if __name__ == "__main__":
    main()

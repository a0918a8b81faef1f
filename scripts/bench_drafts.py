#!/usr/bin/env python3
"""Tokens per full pass by mode and density, beside dense runs under the same budget.

  scripts/bench_drafts.py PACKED_MODEL [--ram 84MiB] [--densities 0.3,0.5,0.7] [--period 8] [--tokens 64]

Ten prompts (scripts/prompts/ten.txt, as chat messages). Every strict text is compared with the dense one. Fixed
periods; "adaptive" is strict with its defaults. --trees: shapes of drafts, as chain, best:WIDTH:NODES or beam:WIDTH. Prints a table in Markdown. Without --ram everything is resident and
the density alone decides what a draft uses: acceptance is then exact, while times say nothing about streaming.
"""
import argparse
import statistics

from dogstar_runs import DEFAULT_PROGRAM, run, ten_prompts


def tree_options(tree):
    shape, *numbers = tree.split(":")
    options = ["--set", f"draft.tree={shape}"]
    for key, number in zip(("draft.width", "draft.nodes"), numbers):
        options += ["--set", f"{key}={number}"]
    return options


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--program", default=DEFAULT_PROGRAM)
    parser.add_argument("--ram", help="budget of every run")
    parser.add_argument("--densities", default="0.3,0.5,0.7")
    parser.add_argument("--modes", default="strict,sirius")
    parser.add_argument("--predictors", default="resident")
    parser.add_argument("--period", default="8")
    parser.add_argument("--trees", default="chain")
    parser.add_argument("--statistics", help="what dogstar calibrate wrote")
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--adaptive", action="store_true", help="add strict mode with its defaults")
    args = parser.parse_args()

    prompts = ten_prompts()
    budget = ["--ram", args.ram] if args.ram else []
    if args.statistics:
        budget += ["--set", f"draft.statistics={args.statistics}"]
    settings = []
    for predictor in args.predictors.split(","):
        for mode in args.modes.split(","):
            for density in args.densities.split(","):
                for tree in args.trees.split(","):
                    options = ["--mode", mode, "--density", density, "--predictor", predictor, "--period", args.period,
                               "--set", "corrector.adaptive=false", *tree_options(tree)]
                    settings.append((f"{mode}, {predictor}, {tree}", options))
    if args.adaptive:
        settings.append(("strict, adaptive", ["--mode", "strict"]))

    results = {i: [] for i in range(len(settings))}
    dense_runs, differing = [], 0
    for prompt in prompts:
        dense = run(args.program, args.model, prompt, args.tokens, ["--mode", "dense", *budget])
        dense_runs.append(dense)
        for i, (name, options) in enumerate(settings):
            result = run(args.program, args.model, prompt, args.tokens, [*options, *budget])
            if name.startswith("strict") and result["tokens"] != dense["tokens"]:
                differing += 1
            results[i].append((result, dense))

    print("| mode, predictor, drafts | density | accepted_mean | rows a pass | draft passes | tokens/s | of dense |")
    print("|---|---|---|---|---|---|---|")
    rate = statistics.median(d["decode_tok_s"] for d in dense_runs)
    print(f"| dense | | | 1 | | {rate:.1f} | 1 |")
    for i, (name, _) in enumerate(settings):
        pairs = results[i]
        cycles = sum(r["cycles"] for r, _ in pairs)
        advanced = sum(r["accepted_mean"] * r["cycles"] for r, _ in pairs)
        density = statistics.mean(r["density"] for r, _ in pairs)
        rate = statistics.median(r["decode_tok_s"] for r, _ in pairs)
        ratio = statistics.median(r["decode_tok_s"] / d["decode_tok_s"] for r, d in pairs if d["decode_tok_s"] > 0)
        rows = 1 + sum(r["verified"] for r, _ in pairs) / cycles
        passes = sum(r["drafted"] for r, _ in pairs) / cycles
        print(f"| {name} | {density:.2f} | {advanced / cycles:.2f} | {rows:.1f} | {passes:.1f} | {rate:.1f} "
              f"| {ratio:.2f} |")
    print(f"\nstrict texts that differ from dense: {differing}")


if __name__ == "__main__":
    main()

#!/usr/bin/env python3
"""Strict text is the dense text, byte for byte: ten prompts over budgets, periods, threads and temperatures.

  scripts/check_identity.py PACKED_MODEL [--ram 84MiB] [--tokens 32]

For each prompt (scripts/prompts/ten.txt) and temperature (0 and 0.8 with a seed): dense with room for everything,
dense under the budget, and strict under the budget with periods 4, 8, 16 and adaptive, with 1 and 2 threads. Also
says whether drafts were real (period 8) and whether every peak stayed within the budget. Exit code 1 if not.
"""
import argparse
import sys

from dogstar_runs import DEFAULT_PROGRAM, run, ten_prompts


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--program", default=DEFAULT_PROGRAM)
    parser.add_argument("--ram", default="84MiB")
    parser.add_argument("--tokens", type=int, default=32)
    args = parser.parse_args()

    budget = ["--ram", args.ram]
    variants = [("dense", ["--mode", "dense", *budget])]
    for threads in ("1", "2"):
        for period in ("4", "8", "16"):
            options = ["--mode", "strict", *budget, "-t", threads, "--period", period, "--set", "corrector.adaptive=false"]
            variants.append((f"strict, period {period}, {threads} threads", options))
        variants.append((f"strict, adaptive, {threads} threads", ["--mode", "strict", *budget, "-t", threads]))

    runs = different = over_budget = 0
    advanced = cycles = 0
    density, disk_bytes = 0, None
    for prompt in ten_prompts():
        for sampling in (["--temp", "0"], ["--temp", "0.8", "--seed", "7"]):
            dense = run(args.program, args.model, prompt, args.tokens, ["--mode", "dense", *sampling])
            for name, options in variants:
                result = run(args.program, args.model, prompt, args.tokens, [*options, *sampling])
                runs += 1
                if (result["text"], result["tokens"]) != (dense["text"], dense["tokens"]):
                    different += 1
                    print(f"differs: {name}, {' '.join(sampling)}: {prompt}")
                over_budget += result["peak_rss_bytes"] > result["budget_bytes"]
                if name.startswith("strict, period 8"):
                    advanced += result["accepted_mean"] * result["cycles"]
                    cycles += result["cycles"]
                    density = max(density, result["density"])
                    disk_bytes = min(disk_bytes or 1 << 62, result["decode_disk_bytes"])
    print(f"{runs} runs, {different} differ from dense, {over_budget} over the budget of {args.ram}")
    print(f"period 8: accepted_mean {advanced / cycles:.2f}, density at most {density:.2f}, "
          f"at least {disk_bytes} bytes read while decoding")
    real = advanced / cycles > 1.2 and density < 1 and disk_bytes > 0
    sys.exit(0 if different == 0 and over_budget == 0 and real else 1)


if __name__ == "__main__":
    main()

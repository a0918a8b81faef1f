#!/usr/bin/env python3
"""Strict mode beside llama.cpp, both under one memory limit that a part of the model does not fit into.

  scripts/compare_capped.py MODEL.gguf MODEL.dog.gguf [--llama PATH/llama-completion] --prompts FILE.jsonl

The limit is a cgroup's and counts the page cache, which is dropped before each run: --share of the model file and
--extra for the program and the KV cache. llama.cpp maps the file (mmap, no repacking: a repacked copy would need the
memory twice; --llama-options for more); our budget is the limit less 5%. Prompts: lines of JSON with --field, as they
are, no chat format. For each, in turn: llama.cpp, strict, and our dense mode under the same budget; the strict text is
compared with that of a dense run with room for everything. Decoding alone is timed. Needs root and a quiet machine.
Without --llama it is our modes alone. Prints a table in Markdown; ratios are medians over the prompts of each prompt's own ratio.
"""
import argparse
import json
import os
import pathlib
import statistics

from dogstar_runs import DEFAULT_PROGRAM, IN_CGROUP, llama_token_seconds, output_of

MIB = 1 << 20


def ours(args, prompt, options, cap=None):
    command = [args.program, "run", args.packed, "-p", prompt, "-n", str(args.tokens), "--ignore-eos", "--threads",
               str(args.threads), "--json", *options]
    for setting in args.set:
        command += ["--set", setting]
    if cap:
        command = [IN_CGROUP, str(cap), *command, "--ram", f"{int(cap * 0.95) // MIB}MiB"]
    return json.loads(output_of(command).stdout)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="for llama.cpp")
    parser.add_argument("packed", help="the same model, packed")
    parser.add_argument("--llama")
    parser.add_argument("--llama-options", default="", help="more of its options, in one argument")
    parser.add_argument("--llama-tokens", type=int, default=16)
    parser.add_argument("--prompts", required=True)
    parser.add_argument("--field", default="question")
    parser.add_argument("--count", type=int, default=10)
    parser.add_argument("--share", type=float, default=0.6)
    parser.add_argument("--extra-mib", type=int, default=24)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--set", action="append", default=[], help="settings of our runs")
    parser.add_argument("--program", default=DEFAULT_PROGRAM)
    args = parser.parse_args()

    cap = int(args.share * os.path.getsize(args.model)) + args.extra_mib * MIB
    lines = pathlib.Path(args.prompts).read_text().splitlines()
    prompts = [json.loads(line)[args.field] for line in lines if line.strip()][:args.count]
    print(f"{os.path.basename(args.model)}, limit {cap / MIB:.0f} MiB, {args.threads} threads, {args.tokens} tokens "
          f"({args.llama_tokens} of llama.cpp)\n")
    print("| prompt | llama.cpp | dense | strict | accepted | strict / llama.cpp | strict / dense |")
    print("|---|---|---|---|---|---|---|")
    over_llama, over_dense, differing, passes, advanced = [], [], 0, 0, 0.0
    for number, prompt in enumerate(prompts, 1):
        peer = float("nan")
        if args.llama:
            peer = 1 / llama_token_seconds(args.llama, args.model, prompt, args.llama_tokens, args.threads, cap,
                                           args.llama_options.split())
        strict = ours(args, prompt, ["--mode", "strict"], cap)
        dense = ours(args, prompt, ["--mode", "dense"], cap)
        differing += ours(args, prompt, ["--mode", "dense"])["tokens"] != strict["tokens"]
        over_llama.append(strict["decode_tok_s"] / peer)
        over_dense.append(strict["decode_tok_s"] / dense["decode_tok_s"])
        passes += strict["cycles"]
        advanced += strict["accepted_mean"] * strict["cycles"]
        print(f"| {number} | {peer:.2f} | {dense['decode_tok_s']:.1f} | {strict['decode_tok_s']:.1f} "
              f"| {strict['accepted_mean']:.2f} | {over_llama[-1]:.1f} | {over_dense[-1]:.2f} |", flush=True)
    print(f"| median | | | | {advanced / passes:.2f} (mean) | {statistics.median(over_llama):.1f} "
          f"| {statistics.median(over_dense):.2f} |")
    print(f"\nstrict texts that differ from dense: {differing}")


if __name__ == "__main__":
    main()

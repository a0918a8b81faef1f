#!/usr/bin/env bash
# Dense speed in memory beside llama.cpp's: same file, same threads, alternating runs, medians. Decoding, verify batches
# and prompts: passes of ROWS rows (1 is decoding). Builds nothing.
#
#   scripts/compare_llama.sh MODEL [LLAMA_BENCH]     or set LLAMA_BENCH to the path of llama-bench
#
# Environment: THREADS (default: cores), ROWS ("1,4,8,16,32,128,512"), TOKENS (64, decoded by llama-bench), RUNS (5),
# PASS_BENCH (build/release/bench/pass_bench)
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

model=${1:-}
llama_bench=${2:-${LLAMA_BENCH:-llama-bench}}
pass_bench=${PASS_BENCH:-$root/build/release/bench/pass_bench}
threads=${THREADS:-$(nproc)}
rows=${ROWS:-1,4,8,16,32,128,512}
tokens=${TOKENS:-64}
runs=${RUNS:-5}

if [[ -z "$model" || ! -f "$model" ]]; then
  sed -n '2,9s/^# \{0,1\}//p' "${BASH_SOURCE[0]}" >&2
  exit 2
fi
for program in "$pass_bench" "$llama_bench"; do
  command -v "$program" >/dev/null || { echo "compare_llama: cannot run $program" >&2; exit 2; }
done

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

prompts=$(tr ',' '\n' <<<"$rows" | grep -vx 1 | paste -sd, -)
for ((run = 1; run <= runs; ++run)); do
  echo "run $run of $runs" >&2
  "$pass_bench" "$model" --threads "$threads" --rows "$rows" --runs 1 --json >>"$folder/ours" 2>/dev/null
  "$llama_bench" -m "$model" -p "$prompts" -n "$tokens" -t "$threads" -r 1 -ngl 0 -o json >"$folder/theirs.$run" \
    2>/dev/null
done
# What the machine can do, and our share of it.
"$pass_bench" "$model" --threads "$threads" --rows "$rows" --runs 3 >"$folder/shares" 2>/dev/null

python3 - "$folder" "$model" "$threads" "$runs" <<'PYTHON'
import collections, glob, json, os, statistics, sys
folder, model, threads, runs = sys.argv[1:]
ours, theirs = collections.defaultdict(list), collections.defaultdict(list)
for line in open(folder + "/ours"):
    row = json.loads(line)
    ours[row["rows"]].append(row["tok_s"])
for path in glob.glob(folder + "/theirs.*"):
    for row in json.load(open(path)):
        theirs[1 if row["n_gen"] > 0 else row["n_prompt"]].append(row["avg_ts"])
print(f"{os.path.basename(model)}, {threads} threads, medians of {runs} alternating runs (lowest to highest)\n")
print("| rows of a pass | dogstar, tokens/s | llama.cpp | ratio |\n|---|---|---|---|")
show = lambda v: f"{statistics.median(v):.1f} ({min(v):.1f} to {max(v):.1f})"
for rows in sorted(ours):
    ratio = statistics.median(ours[rows]) / statistics.median(theirs[rows])
    print(f"| {rows} | {show(ours[rows])} | {show(theirs[rows])} | {ratio:.2f} |")
print()
print(open(folder + "/shares").read().strip())
PYTHON

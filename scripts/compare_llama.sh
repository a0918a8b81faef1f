#!/usr/bin/env bash
# Dense speed in memory beside llama.cpp's: same file, same threads, alternating runs, medians. Builds nothing.
#
#   scripts/compare_llama.sh MODEL [LLAMA_BENCH]     or set LLAMA_BENCH to the path of llama-bench
#
# Environment: THREADS (default: cores), PROMPT_TOKENS (128), TOKENS (64), RUNS (5), DOGSTAR (build/release/dogstar)
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

model=${1:-}
llama_bench=${2:-${LLAMA_BENCH:-llama-bench}}
dogstar=${DOGSTAR:-$root/build/release/dogstar}
threads=${THREADS:-$(nproc)}
prompt_tokens=${PROMPT_TOKENS:-128}
tokens=${TOKENS:-64}
runs=${RUNS:-5}

if [[ -z "$model" || ! -f "$model" ]]; then
  sed -n '2,6s/^# \{0,1\}//p' "${BASH_SOURCE[0]}" >&2
  exit 2
fi
for program in "$dogstar" "$llama_bench"; do
  command -v "$program" >/dev/null || { echo "compare_llama: cannot run $program" >&2; exit 2; }
done

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

# A prompt of prompt_tokens tokens: plain words, taken away until the model's own tokenizer agrees.
words=(the small house by the river was quiet and warm in the long summer evening while rain fell on its roof)
length=$prompt_tokens
while :; do
  for ((i = 0; i < length; ++i)); do printf '%s ' "${words[i % ${#words[@]}]}"; done | sed 's/ $//' >"$folder/prompt"
  count=$("$dogstar" tokenize "$model" --stdin --ids <"$folder/prompt" | wc -w)
  if [[ $count -le $prompt_tokens ]]; then break; fi
  length=$((length - 1))
done

value_of() { python3 -c 'import json, sys; print(json.load(open(sys.argv[1]))[sys.argv[2]])' "$1" "$2"; }

run_ours() {
  local common=(--mode dense --temp 0 --ignore-eos --threads "$threads" --json)
  "$dogstar" run "$model" -f "$folder/prompt" -n 1 "${common[@]}" >"$folder/json" 2>/dev/null
  value_of "$folder/json" prompt_tok_s >>"$folder/ours_prompt"
  value_of "$folder/json" prompt_tokens >"$folder/prompt_tokens"
  "$dogstar" run "$model" -p "Once" -n "$tokens" "${common[@]}" >"$folder/json" 2>/dev/null
  value_of "$folder/json" decode_tok_s >>"$folder/ours_decode"
}

run_theirs() {
  "$llama_bench" -m "$model" -p "$prompt_tokens" -n "$tokens" -t "$threads" -r 1 -ngl 0 -o json \
    >"$folder/json" 2>/dev/null
  python3 - "$folder" <<'PYTHON'
import json, sys
for row in json.load(open(sys.argv[1] + "/json")):
    name = "theirs_decode" if row["n_gen"] > 0 else "theirs_prompt"
    with open(f"{sys.argv[1]}/{name}", "a") as file:
        print(row["avg_ts"], file=file)
PYTHON
}

for ((run = 1; run <= runs; ++run)); do
  echo "run $run of $runs" >&2
  run_ours
  run_theirs
done

python3 - "$folder" "$model" "$threads" "$runs" "$tokens" <<'PYTHON'
import os, statistics, sys
folder, model, threads, runs, tokens = sys.argv[1:]
read = lambda name: [float(line) for line in open(f"{folder}/{name}")]
prompt = open(folder + "/prompt_tokens").read().strip()
print(f"{os.path.basename(model)}, {threads} threads, medians of {runs} alternating runs (lowest to highest)\n")
print(f"| tokens/s | dogstar | llama.cpp | ratio |\n|---|---|---|---|")
for title, name in ((f"prompt, {prompt} tokens", "prompt"), (f"decode, {tokens} tokens", "decode")):
    ours, theirs = read("ours_" + name), read("theirs_" + name)
    show = lambda v: f"{statistics.median(v):.2f} ({min(v):.2f} to {max(v):.2f})"
    print(f"| {title} | {show(ours)} | {show(theirs)} | {statistics.median(ours) / statistics.median(theirs):.2f} |")
PYTHON

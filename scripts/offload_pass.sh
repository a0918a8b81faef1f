#!/usr/bin/env bash
# Time of a full pass over a model larger than memory, beside what the disk allows and beside llama.cpp (mmap, no
# repacking), both under the same cgroup limit of RAM + 5% with a cold page cache. Needs root, fio, and a model file
# on the disk that is to be measured.
#
#   scripts/offload_pass.sh MODEL RAM [TOKENS]       for example: model-8b.gguf 2300MiB 8
#
# Environment: LLAMA_COMPLETION (path of llama-completion; left out when not set), THREADS (default: cores),
# DOGSTAR (build/release/dogstar)
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

model=${1:-}
ram=${2:-}
tokens=${3:-8}
dogstar=${DOGSTAR:-$root/build/release/dogstar}
threads=${THREADS:-$(nproc)}
llama=${LLAMA_COMPLETION:-}
prompt="Once upon a time"

if [[ ! -f "$model" || -z "$ram" ]]; then
  sed -n '2,10s/^# \{0,1\}//p' "${BASH_SOURCE[0]}" >&2
  exit 2
fi
for program in fio "$dogstar" ${llama:+"$llama"}; do
  command -v "$program" >/dev/null || { echo "offload_pass: cannot run $program" >&2; exit 2; }
done
if [[ $tokens -lt 2 ]]; then
  echo "offload_pass: TOKENS must be 2 or more: the first token's pass belongs to the prompt" >&2
  exit 2
fi
cap="$ram+5%"

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

# Sequential read bandwidth of the disk under this file: 1 MiB, 32 deep, O_DIRECT.
measure_disk() {
  fio --name=sequential --filename="$model" --readonly --rw=read --bs=1M --iodepth=32 --ioengine=libaio --direct=1 \
    --time_based --runtime=8 --output-format=json --output="$folder/$1"
}

echo "disk, before" >&2
measure_disk fio_before

echo "dogstar, $tokens tokens" >&2
if ! "$root/scripts/in_cgroup.sh" "$cap" "$dogstar" run "$model" -p "$prompt" -n "$tokens" --mode dense --ram "$ram" \
  --temp 0 --ignore-eos --threads "$threads" --json >"$folder/ours" 2>"$folder/ours_log"; then
  cat "$folder/ours_log" >&2
  exit 1
fi
tail -n 1 "$folder/ours_log" >&2

if [[ -n "$llama" ]]; then
  echo "llama.cpp, $tokens tokens" >&2
  if ! "$root/scripts/in_cgroup.sh" "$cap" "$llama" -m "$model" -p "$prompt" -n "$tokens" -c 512 -t "$threads" \
    --no-warmup -no-cnv --temp 0 --no-repack --ignore-eos --perf </dev/null >/dev/null 2>"$folder/theirs_log"; then
    cat "$folder/theirs_log" >&2
    exit 1
  fi
  tail -n 1 "$folder/theirs_log" >&2
fi

echo "disk, after" >&2
measure_disk fio_after

python3 - "$folder" "$model" "$ram" "$threads" <<'PYTHON'
import json, os, re, sys
folder, model, ram, threads = sys.argv[1:]
bandwidths = [json.load(open(f"{folder}/fio_{when}"))["jobs"][0]["read"]["bw_bytes"] for when in ("before", "after")]
bandwidth = sum(bandwidths) / 2
ours = json.load(open(folder + "/ours"))
passes = len(ours["tokens"]) - 1
seconds = ours["decode_s"] / passes
complement = ours["decode_disk_bytes"] / passes
print(f"{os.path.basename(model)}, {os.path.getsize(model) / 2**30:.2f} GiB, budget {ram}, {threads} threads; disk "
      f"{bandwidths[0] / 1e9:.2f} GB/s before, {bandwidths[1] / 1e9:.2f} after (fio, 1 MiB, depth 32)\n")
print("| | seconds per pass | tokens/s | read per pass | x of the disk's time for its bytes |\n|---|---|---|---|---|")
print(f"| dogstar, dense | {seconds:.3f} | {1 / seconds:.3f} | {complement / 2**30:.3f} GiB | "
      f"{seconds / (complement / bandwidth) if complement else float('nan'):.3f} |")
log = folder + "/theirs_log"
if os.path.exists(log):
    found = re.search(r"\beval time =\s*([\d.]+) ms /\s*(\d+) runs", re.sub(r"prompt eval time.*", "", open(log).read()))
    if not found:
        sys.exit("offload_pass: no eval time in llama.cpp's output")
    theirs = float(found[1]) / 1000 / int(found[2])
    print(f"| llama.cpp, mmap | {theirs:.3f} | {1 / theirs:.3f} | | |")
    print(f"\ndogstar is {theirs / seconds:.2f} times as fast")
print(f"peak RSS {ours['peak_rss_bytes'] / 2**20:.1f} of {ours['budget_bytes'] / 2**20:.1f} MiB")
PYTHON

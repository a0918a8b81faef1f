#!/usr/bin/env bash
# What only a GPU can show, on a machine that has one and no network: GPU tests, then a synthetic model on the GPU beside
# the CPU, with times. Prints one table.
#
#   scripts/gpu_check.sh [FOLDER]    FOLDER: of scripts/gpu_pack.sh (default: build/cuda)
#
# The text of every GPU run must be that of the CPU's dense run; a difference is printed as WRONG and ends with code 1.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
folder=${1:-$root/build/cuda}
dogstar=$folder/dogstar
shape=${DOGSTAR_GPU_SHAPE:-1b}
tokens=${DOGSTAR_GPU_TOKENS:-32}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

nvidia-smi --query-gpu=name,memory.total,memory.free,driver_version --format=csv,noheader || {
  echo "gpu_check: no GPU answers (nvidia-smi)" >&2
  exit 2
}
echo "== tests"
"$folder/cuda_test" --gtest_brief=1
"$folder/paths_test" --gtest_brief=1 --gtest_filter='*GpuTest*'

number() { python3 -c 'import json,sys; print(json.loads(sys.stdin.read())[sys.argv[1]])' "$2" <"$1"; }
run() { "$dogstar" run "$work/$1.dog.gguf" -p "A synthetic model says nothing" -n "$tokens" --json "${@:3}" >"$2"; }

failed=0
echo "== runs of a synthetic $shape, $tokens tokens"
printf '| type | run | tokens/s | over the link, MiB | text |\n|---|---|---|---|---|\n'
for type in Q4_0 Q4_K Q8_0; do
  "$dogstar" synth --shape "$shape" --type "$type" --packed -o "$work/$type.dog.gguf" >"$work/synth.log"
  bytes=$(stat -c %s "$work/$type.dog.gguf")
  run "$type" "$work/cpu.json" --mode dense
  for share in 1.6 0.6; do
    vram=$(python3 -c "print(int($bytes * $share / 2**20) + 256)")MiB
    for mode in dense strict; do
      run "$type" "$work/gpu.json" --mode "$mode" --vram "$vram"
      text=same
      if [[ $(number "$work/cpu.json" tokens) != $(number "$work/gpu.json" tokens) ]]; then
        text=WRONG
        failed=1
      fi
      printf '| %s | %s, --vram %s | %.1f | %.0f | %s |\n' "$type" "$mode" "$vram" \
        "$(number "$work/gpu.json" decode_tok_s)" \
        "$(python3 -c "print($(number "$work/gpu.json" h2d_bytes) / 2**20)")" "$text"
    done
  done
  printf '| %s | CPU, dense | %.1f | 0 | |\n' "$type" "$(number "$work/cpu.json" decode_tok_s)"
done
exit $failed

#!/usr/bin/env bash
# What only a GPU can show, on a machine that has one and no network: GPU tests, rates of its kernels and its link, then a
# synthetic model on the GPU beside the CPU, with times. Prints one table of each.
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
"$folder/paths_test" --gtest_brief=1 --gtest_filter='*Gpu*'

if command -v compute-sanitizer >/dev/null; then
  for tool in memcheck racecheck; do
    echo "== compute-sanitizer, $tool"
    compute-sanitizer --tool "$tool" --error-exitcode 3 "$folder/paths_test" --gtest_brief=1 \
      --gtest_filter='*GpuTest.Cuda*/Q4_0:*GpuTest.Cuda*/Q4_K:*GpuTest.Cuda*/F16:*GpuFfn*:*GpuOps*:*GpuPeaks*:*GpuTop*' |
      tail -3
  done
fi
echo "== rates"
"$dogstar" probe --vram 2GiB -o "$work/tiers.json"

number() { python3 -c 'import json,sys; print(json.loads(sys.stdin.read())[sys.argv[1]])' "$2" <"$1"; }
run() { "$dogstar" run "$work/$1.dog.gguf" -p "A synthetic model says nothing" -n "$tokens" --json "${@:3}" >"$2"; }

failed=0
# Sets text: whether the GPU's tokens are the CPU's.
compare_texts() {
  text=same
  if [[ $(number "$work/cpu.json" tokens) != "$(number "$work/gpu.json" tokens)" ]]; then
    text=WRONG
    failed=1
  fi
}
echo "== runs of a synthetic $shape, $tokens tokens"
printf '| type | run | tokens/s | over the link, MiB | by the processor, MiB | text |\n|---|---|---|---|---|---|\n'
for type in Q4_0 Q4_K Q8_0; do
  "$dogstar" synth --shape "$shape" --type "$type" --packed -o "$work/$type.dog.gguf" >"$work/synth.log"
  bytes=$(stat -c %s "$work/$type.dog.gguf")
  run "$type" "$work/cpu.json" --mode dense
  for share in 1.6 0.6 0.1; do  # all of it, some of the FFN's rows, some of attention and head
    vram=$(python3 -c "print(int($bytes * $share / 2**20) + 768)")MiB
    for settings in dense:0:0 dense:-1:0 strict:-1:0 strict:-1:1; do
      IFS=: read -r mode hybrid planes <<<"$settings"
      run "$type" "$work/gpu.json" --mode "$mode" --vram "$vram" --set "hybrid=$hybrid" --set "draft.planes=$planes"
      compare_texts
      mib() { python3 -c "print($(number "$work/gpu.json" "$1") / 2**20)"; }
      printf '| %s | %s, hybrid %s, planes %s, --vram %s | %.1f | %.0f | %.0f | %s |\n' "$type" "$mode" "$hybrid" \
        "$planes" "$vram" \
        "$(number "$work/gpu.json" decode_tok_s)" "$(mib h2d_bytes)" "$(mib processor_bytes)" "$text"
    done
  done
  printf '| %s | CPU, dense | %.1f | 0 | | |\n' "$type" "$(number "$work/cpu.json" decode_tok_s)"
done

echo "== a long prompt, all on the GPU"
type=Q4_0
vram=$(python3 -c "print(int($(stat -c %s "$work/$type.dog.gguf") * 1.6 / 2**20) + 1536)")MiB
long=$(for ((i = 0; i < ${DOGSTAR_GPU_WORDS:-900}; ++i)); do printf 'word %d ' "$i"; done)
run_long() {
  "$dogstar" run "$work/$type.dog.gguf" -p "$long" -n "$tokens" -c 8192 --json --mode dense "${@:2}" >"$work/$1.json"
}
printf '| K and V | prompt tokens | prompt tokens/s, GPU | CPU | tokens/s behind it, GPU | CPU | text |\n'
printf '|---|---|---|---|---|---|---|\n'
for kv in f16 q8_0; do
  run_long cpu --set "kv_type=$kv"
  run_long gpu --set "kv_type=$kv" --vram "$vram"
  compare_texts
  printf '| %s | %s | %.0f | %.0f | %.1f | %.1f | %s |\n' "$kv" "$(number "$work/gpu.json" prompt_tokens)" \
    "$(number "$work/gpu.json" prompt_tok_s)" "$(number "$work/cpu.json" prompt_tok_s)" \
    "$(number "$work/gpu.json" decode_tok_s)" "$(number "$work/cpu.json" decode_tok_s)" "$text"
done
exit $failed

#!/usr/bin/env bash
# Compiles the kernels for each architecture and counts those whose registers spill to memory, as ptxas reports them.
# Fails where one does, or where there are warnings.
#
#   scripts/gpu_spills.sh [ARCHITECTURE...]    default: 80 86 89 90 120
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
failed=0
for architecture in "${@:-80 86 89 90 120}"; do
  for one in $architecture; do
    nvcc -std=c++20 -fmad=false -O3 -DNDEBUG -I"$root" -arch="sm_$one" -Xcompiler=-Wall,-Wextra -Xptxas -v \
      -c "$root/cuda/cuda_runtime.cu" -o "$folder/kernels.o" 2>"$folder/log"
    kernels=$(grep -c 'Compiling entry function' "$folder/log" || true)
    spilling=$(grep -c ' [1-9][0-9]* bytes spill stores' "$folder/log" || true)
    warnings=$(grep -ci 'warning' "$folder/log" || true)
    echo "sm_$one: $kernels kernels, $spilling spill, $warnings warnings"
    if [[ $kernels -eq 0 || $spilling -ne 0 || $warnings -ne 0 ]]; then failed=1; fi
  done
done
exit $failed

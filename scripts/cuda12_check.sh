#!/usr/bin/env bash
# Compiles the CUDA code for CUDA 12 where nvcc of that version is not at hand: the headers and ptxas are those of CUDA
# 12.8, from Python packages, the front end is clang's (apt-get install clang-19). Says how many kernels ptxas took for
# each architecture; fails on an error or a warning. (Registers are clang's: what spills with nvcc, gpu_spills.sh says.)
#
#   scripts/cuda12_check.sh [ARCHITECTURE...]    default: 80 86 89 90 120
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
clang=${CLANG:-clang++-19}
command -v "$clang" >/dev/null || { echo "cuda12_check.sh: $clang was not found (CLANG names another)" >&2; exit 2; }
toolkit=$root/build/cuda12
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

if [[ ! -x $toolkit/bin/ptxas ]]; then
  python3 -m venv "$folder/venv"
  # cuRAND is here because clang's own header asks for it.
  "$folder/venv/bin/pip" -q download --no-deps -d "$folder/wheels" nvidia-cuda-runtime-cu12==12.8.90 \
    nvidia-cuda-nvcc-cu12==12.8.93 nvidia-cuda-cccl-cu12==12.8.90 nvidia-curand-cu12==10.3.9.90
  for wheel in "$folder"/wheels/*.whl; do python3 -m zipfile -e "$wheel" "$folder/files"; done
  rm -rf "$toolkit"
  mkdir -p "$toolkit/include"
  cp -r "$folder/files/nvidia/cuda_nvcc/bin" "$folder/files/nvidia/cuda_nvcc/nvvm" "$toolkit"
  for part in cuda_nvcc cuda_runtime cuda_cccl curand; do cp -r "$folder/files/nvidia/$part/include/." "$toolkit/include"; done
  chmod +x "$toolkit/bin/ptxas"
fi

flags=(-x cuda -std=c++20 --cuda-path="$toolkit" -isystem "$toolkit/include" --cuda-gpu-arch=sm_80 -ffp-contract=off
       -O3 -Wall -Wextra -Wno-unknown-cuda-version -Wno-unknown-attributes -Werror -I"$root")
for source in "$root"/cuda/*.cu; do
  "$clang" "${flags[@]}" --cuda-host-only -fsyntax-only "$source"
  "$clang" "${flags[@]}" --cuda-device-only -S "$source" -o "$folder/kernels.ptx"
  for architecture in "${@:-80 86 89 90 120}"; do
    for one in $architecture; do
      "$toolkit/bin/ptxas" -v -arch="sm_$one" "$folder/kernels.ptx" -o "$folder/kernels.cubin" 2>"$folder/log"
      echo "$(basename "$source"), CUDA 12.8, sm_$one: $(grep -c 'Compiling entry function' "$folder/log" || true) kernels"
    done
  done
done
for source in "$root"/cuda/*.cc; do
  if [[ $source != *_test.cc ]]; then "${CXX:-g++}" -std=c++20 -fsyntax-only -isystem "$toolkit/include" -I"$root" "$source"; fi
done
echo "the host's part compiles with CUDA 12.8's headers"

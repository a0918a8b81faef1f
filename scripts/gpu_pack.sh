#!/usr/bin/env bash
# Builds what scripts/gpu_check.sh needs, for a machine with a GPU and no compiler, and puts it into one folder.
#
#   scripts/gpu_pack.sh [FOLDER]    default: build/cuda
#   DOGSTAR_CUDA_ARCHITECTURES="80;86;89;90;120"    (default: all of these, and the last one's PTX)
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
folder=${1:-$root/build/cuda}
architectures=${DOGSTAR_CUDA_ARCHITECTURES:-80-real;86-real;89-real;90-real;120}
cmake -S "$root" -B "$root/build/cuda-release" -G Ninja -DCMAKE_BUILD_TYPE=Release -DDOGSTAR_CUDA=ON \
  -DCMAKE_CUDA_ARCHITECTURES="$architectures"
cmake --build "$root/build/cuda-release" --target dogstar cuda_test paths_test
mkdir -p "$folder"
cp "$root/build/cuda-release/dogstar" "$root/build/cuda-release/cuda_test" "$folder/"
cp "$root/build/cuda-release/tests/paths_test" "$folder/"
du -sh "$folder"

#!/usr/bin/env bash
# From a fresh clone to text: installs packages, builds the program, fetches a small model and runs it in strict
# mode under a RAM budget smaller than the model. Under 10 minutes on two cores; a second run takes seconds.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$root"

started=$SECONDS
step() {
  printf '\n== %s  [%d s]\n' "$1" "$((SECONDS - started))"
}

step "1/4 packages"
scripts/install_deps.sh

step "2/4 the program (build/release/dogstar)"
cuda=OFF
if nvidia-smi -L >/dev/null 2>&1 || [[ -e /dev/nvidia0 ]]; then
  cuda=AUTO
fi
configure_log=build/quickstart.log
mkdir -p build
if ! cmake --preset release -DDOGSTAR_CUDA=$cuda >"$configure_log" 2>&1; then
  cat "$configure_log" >&2
  exit 1
fi
if [[ $cuda == AUTO ]] && ! grep -q "Dogstar: CUDA ON" "$configure_log"; then
  echo "there is a GPU but no nvcc: the build is for the CPU alone. With CUDA Toolkit 12 or 13 on PATH, run this again."
fi
cmake --build --preset release --target dogstar

step "3/4 a model (SmolLM2-135M-Instruct, 94 MiB)"
model=$(scripts/get_demo_model.sh)
echo "${model#"$root"/}"

step "4/4 run: strict mode, 84 MiB of RAM"
command=(build/release/dogstar run "${model#"$root"/}" --chat -p "What is the brightest star in the night sky?"
  -n 64 --mode strict --ram 84MiB)
printf '$'
printf ' %q' "${command[@]}"
printf '\n\n'
"${command[@]}"

printf '\nDone in %d s. Next: build/release/dogstar --help, and README.md.\n' "$((SECONDS - started))"

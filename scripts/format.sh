#!/usr/bin/env bash
# clang-format over every C++ and CUDA file that git knows or would add.
#
#   scripts/format.sh           formats in place
#   scripts/format.sh --check   names the files that would change (exit code 1 if any)
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

mapfile -t files < <(git ls-files --cached --others --exclude-standard '*.h' '*.cc' '*.cu' '*.cuh')
existing=()
for file in "${files[@]}"; do
  if [[ -f "$file" ]]; then existing+=("$file"); fi
done
if [[ "${1:-}" != --check ]]; then
  clang-format -i "${existing[@]}"
  exit 0
fi
report=$(clang-format --dry-run --Werror "${existing[@]}" 2>&1) && code=0 || code=$?
if [[ $code -ne 0 ]]; then
  sed -nE 's/^([^ :]+):[0-9]+:[0-9]+: error: .*/not formatted (run scripts\/format.sh): \1/p' <<<"$report" | sort -u >&2
  exit 1
fi
echo "format: ${#existing[@]} files are formatted"

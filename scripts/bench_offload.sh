#!/usr/bin/env bash
# Measures how near offloading comes to the disk.
#
#   scripts/bench_offload.sh reader [FILE]    our page reader and fio, alternating on the same part of the same file
#   scripts/bench_offload.sh pass MODEL       full passes under one budget, beside the disk and llama.cpp
#   scripts/bench_offload.sh curve MODEL      the same for budgets from 30% to 100% of the file; table, CSV, plot
#   scripts/bench_offload.sh plan MODEL       seconds per token as dogstar plan says, and as measured
#   scripts/bench_offload.sh steady MODEL     one long run (600 s): memory must not grow
#
# All but reader take the options of scripts/bench_passes.py (--ram, --caps, --rounds, --llama PATH, ...; --help lists
# them) and, but for steady, need root (cgroups, dropped caches), fio and a quiet machine.
#
# FILE lies on the disk that is to be measured. Without one, a file of SIZE (default 4GiB) random bytes is made in
# FOLDER (default: the current one) and removed afterwards. Tables go to standard output.
#
# reader needs fio. Environment, with defaults: SIZES="64k 128k 256k 512k 1m 2m", DEPTHS="1 4 16 64 256",
# PATTERNS="random sequential", ROUNDS=3, SECONDS_EACH=2, CSV= (a file to write), BENCH=build/release/bench/reader_bench,
# FIO_MEMORY=advised (or pool, small: scripts/bench_reader.py says what they are).
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

usage() { sed -n '2,18s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"; }

need() {  # need PROGRAM...
  local program
  for program in "$@"; do
    command -v "$program" >/dev/null || { echo "bench_offload: cannot run $program" >&2; exit 2; }
  done
}

# test_file [FILE]: sets `file`; one that it makes goes away with the script.
test_file() {
  file=${1:-}
  if [[ -n "$file" ]]; then
    [[ -f "$file" ]] || { echo "bench_offload: no file $file" >&2; exit 2; }
    return
  fi
  file=$(mktemp "${FOLDER:-.}/bench_offload.XXXXXX")
  trap 'rm -f "$file"' EXIT
  echo "bench_offload: writing ${SIZE:-4GiB} into $file" >&2
  head -c "${SIZE:-4GiB}" /dev/urandom >"$file"
  sync "$file"
}

run_reader() {
  local bench=${BENCH:-$root/build/release/bench/reader_bench}
  need fio python3 "$bench"
  test_file "$@"
  python3 "$root/scripts/bench_reader.py" "$file" --bench "$bench" --sizes "${SIZES:-64k 128k 256k 512k 1m 2m}" \
    --depths "${DEPTHS:-1 4 16 64 256}" --patterns "${PATTERNS:-random sequential}" --rounds "${ROUNDS:-3}" \
    --seconds "${SECONDS_EACH:-2}" --csv "${CSV:-}" --fio-memory "${FIO_MEMORY:-advised}"
}

command=${1:-}
shift || true
case "$command" in
  reader) run_reader "$@" ;;
  pass | curve | plan | steady)
    need python3
    if [[ "$command" != steady ]]; then need fio; fi
    python3 "$root/scripts/bench_passes.py" "$command" "$@"
    ;;
  -h | --help) usage ;;
  *) usage >&2; exit 2 ;;
esac

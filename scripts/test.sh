#!/usr/bin/env bash
# Every check of the project, from a fresh clone; ends with "N passed, N failed" (ctest tests and checks together).
#
#   scripts/test.sh           everything: release tests, formatting, ASan + UBSan, TSan, short fuzz runs
#   scripts/test.sh --quick   release build and its tests
#   scripts/test.sh --asan | --tsan | --fuzz | --format    one of them (several may be given)
#
# DOGSTAR_JOBS: how many compilers at once (default: the number of cores).
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$root"

usage() { sed -n '2,8s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"; }
parts=()
for argument in "$@"; do
  case "$argument" in
    --quick) parts+=(release) ;;
    --asan | --tsan | --fuzz | --format) parts+=("${argument#--}") ;;
    -h | --help) usage; exit 0 ;;
    *) echo "test.sh: unknown option $argument" >&2; usage >&2; exit 2 ;;
  esac
done
if [[ ${#parts[@]} -eq 0 ]]; then
  parts=(release format asan tsan fuzz)
fi

jobs=${DOGSTAR_JOBS:-$(nproc)}
passed=0
failed=0
failures=()
started=$SECONDS

step() { printf '\n== %s  [%d s]\n' "$1" "$((SECONDS - started))"; }

count() {  # count NAME EXIT_CODE: one check that is not a ctest
  if [[ $2 -eq 0 ]]; then
    passed=$((passed + 1))
  else
    failed=$((failed + 1))
    failures+=("$1")
  fi
}

finish() {
  printf '\n'
  if [[ ${#failures[@]} -gt 0 ]]; then
    printf 'failed: %s\n' "${failures[@]}"
  fi
  echo "$passed passed, $failed failed"
  [[ $failed -eq 0 && $passed -gt 0 ]]
  exit
}

# build PRESET TARGET...: a build that does not work is one failure, and its tests are not run.
build() {
  local preset=$1
  shift
  mkdir -p "build/$preset"
  if ! cmake --preset "$preset" >"build/$preset/configure.log" 2>&1; then
    cat "build/$preset/configure.log"
    count "$preset: configure" 1
    return 1
  fi
  if ! cmake --build --preset "$preset" -j "$jobs" --target "$@"; then
    count "$preset: build" 1
    return 1
  fi
}

launcher=()  # a command that starts ctest

# run_ctest PRESET CTEST_ARGUMENTS...: adds up what the JUnit report says.
run_ctest() {
  local preset=$1 report="$root/build/$1/ctest.xml" numbers name
  shift
  rm -f "$report"
  "${launcher[@]}" ctest --test-dir "build/$preset" --output-on-failure --output-junit "$report" "$@" || true
  if [[ ! -f "$report" ]]; then
    count "$preset: ctest" 1
    return
  fi
  numbers=$(python3 - "$report" <<'PYTHON'
import sys, xml.etree.ElementTree
cases = list(xml.etree.ElementTree.parse(sys.argv[1]).getroot().iter("testcase"))
def skipped(case):  # on purpose; a program that was not found is a failure
    note = case.find("skipped")
    return case.get("status") == "disabled" or note is not None and "SKIP" in note.get("message", "")
bad = [case.get("name") for case in cases if case.get("status") != "run" and not skipped(case)]
print(sum(case.get("status") == "run" for case in cases), *bad)
PYTHON
  )
  passed=$((passed + ${numbers%% *}))
  if [[ "$numbers" == *" "* ]]; then
    for name in ${numbers#* }; do
      failed=$((failed + 1))
      failures+=("$preset: $name")
    done
  fi
}

# Test programs of a sanitizer build: "FOLDER_test" for each folder named that has tests.
test_targets() {
  local folder
  for folder in "$@"; do
    if compgen -G "$folder/*_test.cc" >/dev/null; then echo "${folder}_test"; fi
  done
}
ctest_pattern() { printf '^(%s)$' "$(test_targets "$@" | sed 's/_test$//' | paste -sd'|')"; }

run_release() {
  step "release build and tests"
  if build release all; then
    run_ctest release -j "$jobs"
  fi
}

run_format() {
  step "formatting"
  local code=0
  scripts/format.sh --check || code=$?
  count "clang-format" "$code"
}

unit_folders=(base io device cpu gpu model memory predictors runtime)
threaded_folders=(base io memory)

run_asan() {
  step "unit tests under AddressSanitizer and UndefinedBehaviorSanitizer"
  local targets
  mapfile -t targets < <(test_targets "${unit_folders[@]}")
  if [[ ${#targets[@]} -gt 0 ]] && build asan "${targets[@]}"; then
    run_ctest asan -j "$jobs" -R "$(ctest_pattern "${unit_folders[@]}")"
  fi
}

run_tsan() {
  step "threads and readers under ThreadSanitizer"
  local targets
  mapfile -t targets < <(test_targets "${threaded_folders[@]}")
  if [[ ${#targets[@]} -gt 0 ]] && build tsan "${targets[@]}"; then
    # GCC 12's ThreadSanitizer gives up on some layouts of randomised addresses.
    if setarch -R true 2>/dev/null; then launcher=(setarch -R); fi
    run_ctest tsan -j "$jobs" -R "$(ctest_pattern "${threaded_folders[@]}")"
    launcher=()
  fi
}

run_fuzz() {
  step "short fuzz runs (under AddressSanitizer)"
  local source targets=()
  for source in tests/fuzz/fuzz_*.cc; do
    if [[ -e "$source" ]]; then targets+=("$(basename "$source" .cc)"); fi
  done
  if [[ ${#targets[@]} -gt 0 ]] && build asan "${targets[@]}"; then
    run_ctest asan -j "$jobs" -R '^fuzz_'
  fi
}

step "packages"
scripts/install_deps.sh || { count "packages" 1; finish; }

step "demo model"
if [[ -n "${DOGSTAR_SMOLLM2:-}" ]]; then
  echo "DOGSTAR_SMOLLM2=$DOGSTAR_SMOLLM2 is set already"
elif model=$(scripts/get_demo_model.sh); then
  export DOGSTAR_SMOLLM2=$model
  echo "$model"
else
  echo "tests that need the demo model will skip: it could not be fetched"
fi

for part in "${parts[@]}"; do
  case "$part" in
    release) run_release ;;
    format) run_format ;;
    asan) run_asan ;;
    tsan) run_tsan ;;
    fuzz) run_fuzz ;;
  esac
done
finish

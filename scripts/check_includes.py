#!/usr/bin/env python3
"""Who may include whom: the arrows of docs/architecture.md. And whether files include what they name, which builds
do not show where headers are precompiled (cmake/targets.cmake).

  scripts/check_includes.py               checks every C++ and CUDA file; exit code 1 and a line per violation
  scripts/check_includes.py --self-test   feeds it violations and sees that each is found
"""

import fnmatch
import os
import re
import sys

import repository

ANYTHING = "anything"
# Folder -> folders whose headers it may include, besides its own.
MAY_INCLUDE = {
    "base": [],
    "io": ["base"],
    "device": ["base"],
    "cpu": ["base", "device"],
    "gpu": ["base", "device"],
    "cuda": ["base", "device", "gpu"],
    "model": ["base", "io"],
    "memory": ["base", "io", "device", "model"],
    "predictors": ["base", "device", "model"],
    "runtime": ["base", "io", "device", "model", "memory", "predictors", "cpu/*_backend.h", "cuda/*_backend.h",
                "gpu/*_backend.h"],
    "tools": [ANYTHING],
    "bench": [ANYTHING],
    "tests": [ANYTHING],
}
# What *_test.cc of a folder may include besides: a real device to run on, and helpers of tests.
TESTS_MAY_INCLUDE = {
    "memory": ["cpu/*_backend.h"],
    "predictors": ["cpu/*_backend.h"],
}
# Headers from outside -> where they may appear (folders, or single files).
OUTSIDE = [
    (r"liburing(\.h|/)", ["io/uring_reader.cc"]),
    (r"(cuda|cublas|cupti|nvtx|nvToolsExt|driver_types|cooperative_groups)\w*(\.h|/)", ["cuda/"]),
    (r"(\w*intrin\.h|arm_neon\.h)", ["cpu/", "bench/"]),
    (r"CLI/", ["tools/", "tests/", "bench/"]),
    (r"nlohmann/", ["tools/", "tests/", "bench/", "*_test.cc", "memory/tiers.cc"]),
    (r"yaml-cpp/", ["runtime/"]),
    (r"pcre2\.h", ["model/"]),
    (r"(gtest|gmock)/", ["tests/", "*_test.cc", "*test_*.h"]),
    (r"benchmark/", ["bench/"]),
]
THIRD_PARTY = re.compile(r"(absl|fmt|gtest|gmock|benchmark|CLI|nlohmann|yaml-cpp)/|(liburing|pcre2|xxhash|cuda_\w+)\.h")
# Helpers of unit tests, beside the code: test_file.h, packed_test_support.h.
TEST_HEADER = re.compile(r".*[/_]test_\w+\.h")
# Headers that are precompiled, and names of theirs. A file that uses one includes the header, or one of ours that does.
NAMED = {
    "algorithm": r"std::(?:ranges::)?(?:sort|stable_sort|nth_element|(?:min|max)_element|max|min|clamp|fill|fill_n|copy|copy_n|"
                 r"find|find_if|any_of|all_of|none_of|count|count_if|equal|transform|replace|reverse|rotate|unique|"
                 r"lower_bound|upper_bound|binary_search|partial_sort|remove_if|generate|shuffle|is_sorted)\b(?!_)",
    "array": r"std::(?:array\b|to_array\b)",
    "functional": r"std::(?:function|less|greater|plus|hash|reference_wrapper|ref|cref|invoke)\b",
    "map": r"std::(?:multi)?map\b",
    "memory": r"std::(?:unique_ptr|shared_ptr|weak_ptr|make_unique|make_shared)\b",
    "span": r"std::(?:span|as_bytes|as_writable_bytes)\b",
    "string": r"std::(?:string|to_string|getline|stoi|stod)\b",
    "vector": r"std::vector\b",
    "absl/status/statusor.h": r"absl::StatusOr\b",
    "absl/strings/str_cat.h": r"absl::Str(?:Cat|Append)\b",
    "fmt/format.h": r"fmt::(?:format|format_to|join|print|memory_buffer|runtime)\b",
    "CLI/CLI.hpp": r"CLI::\w",
    "nlohmann/json.hpp": r"nlohmann::\w",
    "gtest/gtest.h": r"\bTEST(?:_F|_P)?\(",
    "gmock/gmock.h": r"\bEXPECT_THAT\(",
}
NAMED = {header: re.compile(pattern) for header, pattern in NAMED.items()}
# Headers that bring another one's names by their own contract.
BRINGS = {"gmock/gmock.h": ["gtest/gtest.h"], "fmt/core.h": ["fmt/format.h"], "nlohmann/json_fwd.hpp": ["nlohmann/json.hpp"],
          "CLI/App.hpp": ["CLI/CLI.hpp"]}
INCLUDE = re.compile(r'^[ \t]*#[ \t]*include[ \t]*([<"])([^>"\n]+)[>"]', re.MULTILINE)


def allows(rules, header):
    folder, _, name = header.partition("/")
    for rule in rules:
        rule_folder, _, rule_name = rule.partition("/")
        if rule == ANYTHING or rule_folder == folder and (not rule_name or name.endswith(rule_name.lstrip("*"))):
            return True
    return False


def violation(path, header, quoted, exists):
    """What is wrong with `path` including `header`, or None."""
    folder = path.split("/")[0]
    is_test = path.endswith("_test.cc") or TEST_HEADER.fullmatch(path) is not None
    for pattern, places in OUTSIDE:
        if re.match(pattern, header) and header.split("/")[0] not in MAY_INCLUDE:
            if not any(path.startswith(place) or fnmatch.fnmatch(path, place) for place in places):
                return f"belongs in {' '.join(places)} only"
    target = header.split("/")[0]
    if target in MAY_INCLUDE and "/" in header and (quoted or exists(header)):
        if not exists(header):
            return "does not exist"
        if TEST_HEADER.fullmatch(header) and not is_test and folder not in ("tests", "bench"):
            return "only tests include it"
        if target == folder:
            return None
        rules = list(MAY_INCLUDE[folder])
        if is_test:
            rules += TESTS_MAY_INCLUDE.get(folder, []) + (["tests"] if header.startswith("tests/support/") else [])
        if target in ("tools", "bench", "tests") and folder != target and not is_test and folder not in ("tests", "bench"):
            return f"nothing includes {target}/"
        if not allows(rules, header):
            return f"{folder}/ may include {', '.join(rules) or 'nothing of ours'}"
        return None
    if quoted and not THIRD_PARTY.match(header):
        return "write the path from the root of the repository"
    return None


def check(path, text, exists):
    problems = []
    if path.split("/")[0] not in MAY_INCLUDE:
        return [f"{path}: C++ outside the folders of docs/architecture.md"]
    # Only comments are taken out: the headers stand in quotes.
    bare = repository.TOKENS.sub(lambda m: m.group() if m.group("string") else "\n" * m.group().count("\n"), text)
    for match in INCLUDE.finditer(bare):
        header = match.group(2)
        problem = violation(path, header, match.group(1) == '"', exists)
        if problem:
            line = bare.count("\n", 0, match.start()) + 1
            problems.append(f"{path}:{line}: includes {header}: {problem}")
    return problems


def includes_of(text):
    return [match.group(2) for match in INCLUDE.finditer(text)]


class Reached:
    """The headers that a file includes, by itself or through ours."""

    def __init__(self, text_of):
        self.text_of = text_of  # of one of our headers, or None
        self.known = {}

    def of_text(self, text):
        reached = set()
        for header in includes_of(text):
            reached |= {header} | set(BRINGS.get(header, [])) | self.of_header(header)
        return reached

    def of_header(self, header):
        if header not in self.known:
            self.known[header] = set()  # headers that include each other
            text = self.text_of(header)
            if text is not None:
                self.known[header] = self.of_text(text)
        return self.known[header]


def unnamed(path, text, reached):
    """Lines for names whose header the file does not reach."""
    code, there = repository.code_of(text), reached.of_text(text)
    problems = []
    for header, names in NAMED.items():
        match = names.search(code)
        if match and header not in there:
            line = code.count("\n", 0, match.start()) + 1
            problems.append(f"{path}:{line}: names {match.group()}: include {header}")
    return problems


def self_test():
    known = {"base/status.h", "io/page_reader.h", "device/backend.h", "cpu/cpu_backend.h", "cpu/kernels.h",
             "cuda/cuda_backend.h", "cuda/owned.h", "model/gguf.h", "memory/pager.h", "predictors/predictor.h",
             "runtime/engine.h", "tools/command.h", "tests/support/tiny.h", "io/test_file.h"}
    bad = [
        ("base/a.cc", '#include "io/page_reader.h"'), ("io/a.cc", '#include "device/backend.h"'),
        ("device/a.h", '#include "model/gguf.h"'), ("cpu/a.cc", '#include "model/gguf.h"'),
        ("cuda/a.cu", '#include "memory/pager.h"'), ("model/a.cc", '#include "device/backend.h"'),
        ("memory/a.cc", '#include "predictors/predictor.h"'), ("predictors/a.cc", '#include "memory/pager.h"'),
        ("memory/a.cc", '#include "cpu/cpu_backend.h"'), ("runtime/a.cc", '#include "cpu/kernels.h"'),
        ("runtime/a.cc", '#include "cuda/owned.h"'), ("runtime/a.cc", '#include "tools/command.h"'),
        ("runtime/a.cc", '#include <tools/command.h>'), ("base/a.cc", '#include "tests/support/tiny.h"'),
        ("model/a_test.cc", '#include "runtime/engine.h"'), ("tools/a.cc", '#include "tests/support/tiny.h"'),
        ("io/a.cc", "#include <liburing.h>"), ("tests/a.cc", "#include <liburing.h>"),
        ("runtime/a.cc", '#include "cuda_runtime_api.h"'), ("tools/a.cc", "#include <cuda_runtime.h>"),
        ("device/a.cc", "#include <immintrin.h>"), ("runtime/a.cc", '#include "nlohmann/json.hpp"'),
        ("runtime/a.cc", '#include "CLI/CLI.hpp"'), ("model/a.cc", '#include "yaml-cpp/yaml.h"'),
        ("io/a.cc", '#include "gtest/gtest.h"'), ("base/a.cc", '#include "status.h"'),
        ("base/a.cc", '#include "base/missing.h"'), ("base/a.cc", ' #  include "../io/page_reader.h"'),
        ("extra/a.cc", "int x;"), ("io/a.cc", '#include "io/test_file.h"'), ("io/a.h", '#include "gtest/gtest.h"'),
    ]
    good = [
        ("memory/a.cc", '#include "io/page_reader.h"'), ("runtime/a.cc", '#include "cpu/cpu_backend.h"'),
        ("runtime/a.cc", '#include "cuda/cuda_backend.h"'), ("tools/a.cc", '#include "cpu/kernels.h"'),
        ("io/uring_reader.cc", "#include <liburing.h>"), ("cuda/a.cu", '#include "cuda_runtime_api.h"'),
        ("memory/a_test.cc", '#include "cpu/cpu_backend.h"'), ("base/a_test.cc", '#include "tests/support/tiny.h"'),
        ("io/a_test.cc", '#include "io/test_file.h"'), ("io/test_file.h", '#include "gtest/gtest.h"'),
        ("cpu/a_avx2.cc", "#include <immintrin.h>"), ("base/a.cc", '// #include "io/page_reader.h"'),
        ("tests/paths/a_test.cc", '#include "tools/command.h"'), ("base/a.cc", '#include "absl/status/status.h"'),
    ]
    wrong = [f"not found: {case}" for case in bad if not check(*case, known.__contains__)]
    wrong += [f"refused: {case}: {check(*case, known.__contains__)}" for case in good
              if check(*case, known.__contains__)]
    reached = Reached({"base/list.h": "#include <vector>", "base/round.h": '#include "base/round.h"'}.get)
    missing = ["std::vector<int> x;", "auto x = std::ranges::sort(y);", '#include "base/round.h"\nstd::string s;',
               "// #include <span>\nstd::span<int> s;", "TEST(A, B) {}", "nlohmann::json j;"]
    named = ['#include "base/list.h"\nstd::vector<int> x;', '#include <string>\nstd::string s;', "// std::vector",
             '#include "gmock/gmock.h"\nTEST(A, B) {}', 'const char* text = "std::map";', "std::string_view s;"]
    wrong += [f"not found: {case!r}" for case in missing if not unnamed("base/a.cc", case, reached)]
    wrong += [f"refused: {case!r}" for case in named if unnamed("base/a.cc", case, reached)]
    print("\n".join(wrong) or f"check_includes: {len(bad + missing)} violations found, {len(good + named)} good lines pass")
    return 1 if wrong else 0


def main():
    if sys.argv[1:] == ["--self-test"]:
        return self_test()
    paths = [path for path in repository.files() if path.endswith(repository.CPP)]
    exists = lambda header: os.path.isfile(os.path.join(repository.ROOT, header))
    texts = {path: repository.read(path).decode(errors="replace") for path in paths}
    reached = Reached(texts.get)
    problems = [p for path, text in texts.items() for p in check(path, text, exists) + unnamed(path, text, reached)]
    print("\n".join(problems) or f"check_includes: {len(paths)} files follow the arrows")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())

#!/usr/bin/env python3
"""House rules that a compiler does not hold. Each names what to do instead.

  scripts/tidy.py               checks every file of the repository; exit code 1 and a line per finding
  scripts/tidy.py --self-test   feeds each rule something bad and sees that it is found
"""

import re
import sys

import repository

LINES_MAX = 600
BLOB_BYTES_MAX = 256 << 10
# A file that may be longer than LINES_MAX, and why it is one thing.
LONG_FILES = {}
# A file that may hold what a rule refuses: (rule, path), and why.
EXCEPTIONS = {
    ("platform", "base/thread_pool.cc"): "the pause instruction of a spinning thread has no portable name",
}

PROGRAMS = ("tools/", "tests/", "bench/", "_test.cc")
# name, pattern (on code without comments and strings), places where it is fine (start or end of a path), instead
CALLS = [
    ("system", r"\b(system|popen)\s*\(", ("tests/",), "start no other programs"),
    ("getenv", r"\b(secure_)?getenv\s*\(", PROGRAMS, "read the environment in tools/ and pass options down"),
    ("exit", r"\b(_?exit|_Exit|quick_exit|abort|terminate)\s*\(", ("base/status.cc",) + PROGRAMS,
     "return absl::Status; CHECK for mistakes of our own"),
    ("stdout", r"\b(printf|puts|putchar|vprintf)\s*\(|\bstd::cout\b|\bstdout\b|\bfmt::print\s*\(\s*(?!stderr)", PROGRAMS,
     "return text; only tools/ prints"),
    ("throw", r"\bthrow\b(?!\s*\()", PROGRAMS, "return absl::Status"),
    ("assert", r"\bassert\s*\(", (), "CHECK, or DCHECK in hot code"),
    ("unsafe text", r"\b(sprintf|strcpy|strcat|gets|atoi|atol|atof|strtok)\s*\(", (), "fmt::format, std::from_chars"),
    ("using namespace", r"\busing\s+namespace\s+(?!std::(chrono_)?literals)", (), "name what is used"),
    ("random", r"\b(rand|srand|random_device)\s*\(|\bstd::(mt19937\w*|random_device)\b", ("tests/", "_test.cc"),
     "base/random.h: numbers are keyed or seeded"),
    ("platform", r"^[ \t]*#[ \t]*(if|ifdef|ifndef|elif)\b.*(CUDA|AVX|__x86|__ARM|__aarch64)", ("cpu/", "cuda/", "gpu/", "bench/"),
     "a file of its own in cpu/ or cuda/, behind device/"),
]
# On every text file. Written in pieces, so that this file passes.
MARKER = re.compile(r"\b(" + "|".join(["TO" "DO", "FIX" "ME", "XX" "X", "HA" "CK"]) + r")\b")
MACHINE_PATH = re.compile(r"(?<![\w.$}~/])/(home|root|Users|work)/\w")
DATA = (".json", ".jsonl", ".txt", ".gguf", ".bin")


def allowed(places, path):
    return any(path.startswith(place) if place.endswith("/") else path.endswith(place) for place in places)


def find(path, content):
    """(rule, line, what) for each finding in one file."""
    if len(content) > BLOB_BYTES_MAX:
        yield "blob", 1, f"{len(content) >> 10} KiB; at most {BLOB_BYTES_MAX >> 10}: generate or download it"
    if b"\0" in content[:8192]:
        return
    text = content.decode(errors="replace")
    lines = text.split("\n")
    if path != "LICENSE" and len(lines) - 1 > LINES_MAX and not path.endswith(DATA) and path not in LONG_FILES:
        yield "length", LINES_MAX, f"{len(lines) - 1} lines; at most {LINES_MAX}: split it, or name why it is one thing"
    if text and not text.endswith("\n") and not path.endswith(DATA):
        yield "end", len(lines), "no newline at the end of the file"
    for number, line in enumerate(lines, 1):
        if MARKER.search(line):
            yield "marker", number, f"leftover {MARKER.search(line).group()}: do it, or write an issue"
        if MACHINE_PATH.search(line):
            yield "machine path", number, "a path of somebody's machine"
        if line != line.rstrip() and not path.endswith(DATA):
            yield "whitespace", number, "whitespace at the end of the line"
    if not path.endswith(repository.CPP):
        return
    code = repository.code_of(text)
    if path.endswith((".h", ".cuh")) and "#pragma once" not in code:
        yield "guard", 1, "a header starts with #pragma once"
    for rule, pattern, places, instead in CALLS:
        if allowed(places, path):
            continue
        for match in re.finditer(pattern, code, re.MULTILINE):
            yield rule, code.count("\n", 0, match.start()) + 1, f"{match.group().strip()}: {instead}"


def check(path, content):
    return [f"{path}:{line}: {rule}: {what}" for rule, line, what in find(path, content)
            if (rule, path) not in EXCEPTIONS]


def self_test():
    bad = [
        ("system", "io/a.cc", 'int x = std::system("ls");\n'), ("system", "tools/a.cc", 'FILE* f = popen("ls", "r");\n'),
        ("getenv", "runtime/a.cc", 'auto* v = std::getenv("X");\n'), ("exit", "io/a.cc", "std::abort();\n"),
        ("exit", "runtime/a.cc", "if (bad) exit(1);\n"), ("exit", "base/a.cc", "std::exit (2);\n"),
        ("stdout", "memory/a.cc", 'printf("x");\n'), ("stdout", "memory/a.cc", "std::cout << 1;\n"),
        ("stdout", "model/a.cc", "std::fprintf(stdout, x);\n"), ("stdout", "model/a.cc", 'fmt::print("x");\n'),
        ("throw", "model/a.cc", 'throw std::runtime_error("x");\n'), ("assert", "cpu/a.cc", "assert(x);\n"),
        ("unsafe text", "tools/a.cc", "int n = atoi(text);\n"), ("using namespace", "base/a.cc", "using namespace std;\n"),
        ("random", "runtime/a.cc", "std::mt19937 generator;\n"), ("platform", "base/a.cc", "#ifdef DOGSTAR_CUDA\n"),
        ("platform", "runtime/a.cc", "#if defined(__AVX2__)\n"), ("guard", "base/a.h", "int x;\n"),
        ("marker", "base/a.cc", "// TO" "DO: later\n"), ("marker", "docs/a.md", "FIX" "ME\n"),
        ("machine path", "docs/a.md", "run /ho" "me/me/dogstar\n"), ("whitespace", "docs/a.md", "text \n"),
        ("whitespace", "base/a.cc", "int x;\r\n"), ("end", "base/a.cc", "int x;"),
        ("length", "base/a.cc", "int x;\n" * (LINES_MAX + 1)), ("blob", "tests/a.bin", "x" * (BLOB_BYTES_MAX + 1)),
    ]
    good = [
        ("base/status.cc", "std::abort();\n"), ("tools/a.cc", 'printf("x"); exit(1);\n'),
        ("io/a.cc", '// system("ls") exit(1)\nstd::string s = "abort() printf(";\n'), ("io/a.cc", "fmt::print(stderr, x);\n"),
        ("io/a_test.cc", 'getenv("X");\n'), ("io/a.cc", "snprintf(buffer, 4, x); std::fprintf(stderr, x);\n"),
        ("io/a.cc", "static_assert(sizeof(int) == 4); int file_system(int);\n"), ("base/a.h", "#pragma once\n"),
        ("cpu/a.cc", "#ifdef __AVX2__\n#endif\n"), ("io/a.cc", "int x = 1'000'000; char c = '\"'; int y = 'a';\n"),
        ("docs/a.md", "see scripts/test.sh and /dev/null\n"), ("io/a.cc", 'auto s = R"x(\nsystem("ls")\n)x";\n'),
    ]
    wrong = []
    for rule, path, text in bad:
        if rule not in [found for found, _, _ in find(path, text.encode())]:
            wrong.append(f"not found: {rule} in {path}: {text[:60]!r}")
    for path, text in good:
        for finding in check(path, text.encode()):
            wrong.append(f"refused: {finding}")
    untested = {rule for rule, _, _, _ in CALLS} - {rule for rule, _, _ in bad}
    wrong += [f"rule without a test: {rule}" for rule in untested]
    print("\n".join(wrong) or f"tidy: {len(bad)} bad pieces found, {len(good)} good ones pass")
    return 1 if wrong else 0


def main():
    if sys.argv[1:] == ["--self-test"]:
        return self_test()
    paths = repository.files()
    problems = [problem for path in paths for problem in check(path, repository.read(path))]
    for path in list(LONG_FILES) + [path for _, path in EXCEPTIONS]:
        if path not in paths:
            problems.append(f"scripts/tidy.py: an exception names {path}, which does not exist")
    for path in LONG_FILES:
        if path in paths and repository.read(path).count(b"\n") <= LINES_MAX:
            problems.append(f"scripts/tidy.py: {path} needs no exception any more")
    print("\n".join(problems) or f"tidy: {len(paths)} files are in order")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())

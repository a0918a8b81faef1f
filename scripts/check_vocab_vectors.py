#!/usr/bin/env python3
"""Checks `dogstar tokenize` against vocabulary test vectors.

    scripts/check_vocab_vectors.py build/release/dogstar FOLDER

FOLDER holds vocabulary-only models NAME.gguf with NAME.gguf.inp (texts, separated by lines of
__ggml_vocab_test__) and NAME.gguf.out (one line of token ids for each), as llama.cpp publishes them under models/.
Vocabularies that Dogstar says it does not know are listed and skipped; a wrong id is a failure.
"""

import pathlib
import subprocess
import sys

SEPARATOR = "\n__ggml_vocab_test__\n"


def tokenize(program, model, text):
    command = [program, "tokenize", str(model), "--stdin", "--ids", "--no-bos"]
    return subprocess.run(command, input=text.encode(), capture_output=True, check=False)


def check_vocabulary(program, model):
    """Returns (passed, failed) or the reason why the vocabulary was skipped."""
    texts = pathlib.Path(f"{model}.inp").read_text(encoding="utf-8").split(SEPARATOR)
    lines = pathlib.Path(f"{model}.out").read_text(encoding="utf-8").split("\n")
    passed = failed = 0
    for text, line in zip(texts, lines):
        result = tokenize(program, model, text)
        if result.returncode != 0:
            return result.stderr.decode(errors="replace").strip()
        got = result.stdout.decode().split()
        if got == line.split():
            passed += 1
        else:
            failed += 1
            print(f"  {model.name}: {text!r}\n    expected {line.strip()}\n    got      {' '.join(got)}")
    return passed, failed


def main():
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    failures = 0
    checked = 0
    for out in sorted(pathlib.Path(sys.argv[2]).glob("*.gguf.out")):
        model = out.with_suffix("")
        outcome = check_vocabulary(sys.argv[1], model)
        if isinstance(outcome, str):
            print(f"skipped  {model.name}: {outcome}")
            continue
        checked += 1
        failures += outcome[1]
        print(f"{'ok' if outcome[1] == 0 else 'FAILED':<8} {model.name}: {outcome[0]} texts, {outcome[1]} wrong")
    if checked == 0:
        sys.exit("no vocabulary was checked")
    sys.exit(1 if failures else 0)


if __name__ == "__main__":
    main()

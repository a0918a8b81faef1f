#!/usr/bin/env python3
"""Share of problems solved, by mode: does a sparse or corrected run still do what the full model does?

  scripts/bench_accuracy.py MODEL.dog.gguf --gsm8k FILE.jsonl [--count 50] [--settings "dense" "sparse griffin 0.5"]
  scripts/bench_accuracy.py MODEL.dog.gguf --humaneval FILE.jsonl --run-code

GSM8K: lines with "question" and "answer" ("... #### 18"); the question is a chat message, solved if the last number of
the reply is the answer's. HumanEval: lines with "prompt", "test" and "entry_point"; the prompt is completed as it is, up
to the end of the function, solved if the tests pass. That runs code that the model has written, in a process of its own
with limits on time, memory and files, which is no sandbox: hence --run-code.
A setting is a mode, then a predictor and a density where the mode drafts. Prints a table in Markdown; the error is one
standard error. A model that solves next to nothing dense shows nothing about the others.
"""
import argparse
import json
import math
import pathlib
import re
import resource
import subprocess
import sys
import tempfile

from dogstar_runs import DEFAULT_PROGRAM

NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?")
END_OF_FUNCTION = re.compile(r"\n(?=def |class |if __name__|print\(|#|@|assert )")
DEFAULT_SETTINGS = ["dense", "sparse griffin 0.5", "sparse gate 0.5", "sirius griffin 0.5", "sirius gate 0.5"]


def reply(args, setting, options, prompt):
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as file:
        file.write(prompt)
        file.flush()
        command = [args.program, "run", args.model, "-f", file.name, "-n", str(args.tokens), "--json", *options]
        command += mode_options(setting)
        done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"{' '.join(command)}\n{done.stderr}")
    return json.loads(done.stdout)["text"]


def mode_options(setting):
    mode, *draft = setting.split()
    options = ["--mode", mode]
    if draft:
        options += ["--predictor", draft[0]]
    if len(draft) > 1:
        options += ["--density", draft[1]]
    return options


def last_number(text):
    numbers = NUMBER.findall(text)
    return float(numbers[-1].replace(",", "")) if numbers else None


def solves_gsm8k(args, setting, problem):
    text = reply(args, setting, ["--chat"], problem["question"])
    expected = last_number(problem["answer"].split("####")[-1])
    found = last_number(text)
    return found is not None and abs(found - expected) < 1e-6


def limit_process():
    resource.setrlimit(resource.RLIMIT_CPU, (5, 5))
    resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    resource.setrlimit(resource.RLIMIT_NOFILE, (16, 16))


def solves_humaneval(args, setting, problem):
    completion = END_OF_FUNCTION.split(reply(args, setting, [], problem["prompt"]), maxsplit=1)[0]
    code = f"{problem['prompt']}{completion}\n{problem['test']}\ncheck({problem['entry_point']})\n"
    with tempfile.TemporaryDirectory() as folder:
        try:
            done = subprocess.run([sys.executable, "-I", "-c", code], cwd=folder, preexec_fn=limit_process, timeout=10,
                                  stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        except subprocess.TimeoutExpired:
            return False
    return done.returncode == 0


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--program", default=DEFAULT_PROGRAM)
    parser.add_argument("--gsm8k", help="problems, one JSON object a line")
    parser.add_argument("--humaneval")
    parser.add_argument("--run-code", action="store_true", help="run what the model writes for HumanEval")
    parser.add_argument("--count", type=int, default=50, help="problems of the file")
    parser.add_argument("--tokens", type=int, default=256, help="of a reply, at most")
    parser.add_argument("--settings", nargs="+", default=DEFAULT_SETTINGS)
    args = parser.parse_args()
    if bool(args.gsm8k) == bool(args.humaneval):
        sys.exit("bench_accuracy: give --gsm8k or --humaneval")
    if args.humaneval and not args.run_code:
        sys.exit("bench_accuracy: --humaneval runs code that the model writes; --run-code allows it")

    lines = pathlib.Path(args.gsm8k or args.humaneval).read_text().splitlines()
    problems = [json.loads(line) for line in lines if line.strip()][:args.count]
    solves = solves_gsm8k if args.gsm8k else solves_humaneval
    print("| setting | solved | of | share | same verdict as the first setting |\n|---|---|---|---|---|")
    first = None
    for setting in args.settings:
        verdicts = [solves(args, setting, problem) for problem in problems]
        first = first or verdicts
        share = sum(verdicts) / len(verdicts)
        error = math.sqrt(share * (1 - share) / len(verdicts))
        same = sum(a == b for a, b in zip(first, verdicts)) / len(verdicts)
        print(f"| {setting} | {sum(verdicts)} | {len(verdicts)} | {share:.3f} +- {error:.3f} | {same:.2f} |", flush=True)


if __name__ == "__main__":
    main()

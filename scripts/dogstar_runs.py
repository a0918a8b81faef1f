"""Runs of the program, and of llama.cpp under the same limit, for the scripts that compare runs."""
import json
import os
import pathlib
import re
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
DEFAULT_PROGRAM = str(ROOT / "build/release/dogstar")
IN_CGROUP = str(ROOT / "scripts/in_cgroup.sh")


def ten_prompts():
    return (ROOT / "scripts/prompts/ten.txt").read_text().splitlines()


def run(program, model, prompt, tokens, options, chat=True):
    """The JSON of one run; ends the script with the program's message if it fails."""
    command = [program, "run", model, *(["--chat"] if chat else []), "-p", prompt, "-n", str(tokens), "--json", *options]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"{' '.join(command)}\n{done.stderr}")
    return json.loads(done.stdout)


def output_of(command, environment=None):
    """What the command printed; ends the script with its messages if it fails."""
    done = subprocess.run(command, capture_output=True, text=True, errors="replace",
                          env={**os.environ, **(environment or {})})
    if done.returncode != 0:
        sys.exit(f"{' '.join(command)}\n{done.stderr[-3000:]}{done.stdout[-1000:]}")
    return done


def llama_token_seconds(llama, model, prompt, tokens, threads, cap_bytes, options=()):
    """Seconds a decoded token of llama-completion in a cgroup of cap_bytes: mmap, no repacking (a repacked copy would
    need the memory twice)."""
    log = output_of([IN_CGROUP, str(cap_bytes), llama, "-m", model, "-p", prompt, "-n", str(tokens), "-c", "512", "-t",
                     str(threads), "--no-warmup", "-no-cnv", "--temp", "0", "--no-repack", "--ignore-eos", "--perf",
                     *options]).stderr
    found = re.search(r"\beval time =\s*([\d.]+) ms /\s*(\d+) runs", re.sub(r"prompt eval time.*", "", log))
    if not found:
        sys.exit(f"no eval time in llama.cpp's output:\n{log[-2000:]}")
    return float(found[1]) / 1e3 / int(found[2])

"""Runs of the program over the ten prompts, for the scripts that compare runs."""
import json
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
DEFAULT_PROGRAM = str(ROOT / "build/release/dogstar")


def ten_prompts():
    return (ROOT / "scripts/prompts/ten.txt").read_text().splitlines()


def run(program, model, prompt, tokens, options, chat=True):
    """The JSON of one run; ends the script with the program's message if it fails."""
    command = [program, "run", model, *(["--chat"] if chat else []), "-p", prompt, "-n", str(tokens), "--json", *options]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"{' '.join(command)}\n{done.stderr}")
    return json.loads(done.stdout)

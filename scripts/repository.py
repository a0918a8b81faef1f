"""What the checks share: the files of the repository, and C++ text without comments and strings."""

import os
import re
import subprocess

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
SKIPPED_FOLDERS = {".git", ".cache", "build", "models", "__pycache__"}
CPP = (".h", ".cc", ".cu", ".cuh")


def files():
    """Paths (relative, with /) of every file that git has or would add; without git, of every file."""
    command = ["git", "-C", ROOT, "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    try:
        listed = subprocess.run(command, capture_output=True, check=True).stdout.decode().split("\0")
        paths = [path for path in listed if path]
    except (OSError, subprocess.CalledProcessError):
        paths = []
        for folder, subfolders, names in os.walk(ROOT):
            subfolders[:] = [name for name in subfolders if name not in SKIPPED_FOLDERS]
            paths += [os.path.relpath(os.path.join(folder, name), ROOT).replace(os.sep, "/") for name in names]
    return sorted(path for path in set(paths) if os.path.isfile(os.path.join(ROOT, path)))


def read(path):
    with open(os.path.join(ROOT, path), "rb") as file:
        return file.read()


TOKENS = re.compile(
    r"""(?P<raw>R"(?P<mark>[^\s()\\]{0,16})\(.*?\)(?P=mark)")
      | (?P<string>"(?:\\.|[^"\\\n])*")
      | (?P<char>(?<![0-9A-Za-z_])'(?:\\.|[^'\\\n])+')
      | (?P<line>//[^\n]*)
      | (?P<block>/\*.*?\*/)""",
    re.DOTALL | re.VERBOSE,
)


def code_of(text):
    """C++ text with comments and the insides of strings blanked; line numbers stay."""

    def blank(match):
        newlines = "\n" * match.group().count("\n")
        if match.group("line") or match.group("block"):
            return " " + newlines
        return '""' + newlines

    return TOKENS.sub(blank, text)

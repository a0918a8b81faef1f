#!/usr/bin/env python3
"""Our page reader and fio, alternating: same file, part, pattern, size and depth. scripts/bench_offload.sh calls it.

Both use io_uring with O_DIRECT, registered file and registered buffers, from one thread. Each cell is the median of the
rounds, the ratio the median of the rounds' own ratios (a round is fio and ours, one after the other, in turn first).
CPU: processor seconds per GB, as each program is charged for them.

What the bytes are read into decides as much as the reader, so fio can be given the same (--fio-memory):
  pool    huge pages from the kernel's pool: the same memory as ours. Needs pages there (sysctl vm.nr_hugepages)
  advised huge pages by advice, from 2 MiB on and where they happen to be aligned
  small   small pages: fio as it comes
"""

import argparse
import csv
import json
import os
import random
import statistics
import subprocess
import sys

UNITS = {"k": 1 << 10, "m": 1 << 20, "g": 1 << 30}


def bytes_of(text):
    unit = text[-1].lower()
    return int(float(text[:-1]) * UNITS[unit]) if unit in UNITS else int(text)


def output_of(command, environment=None):
    done = subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, **(environment or {})})
    if done.returncode != 0:
        sys.exit(f"bench_reader: {' '.join(command)}\n{done.stderr}{done.stdout}")
    return done.stdout


class Fio:
    name = "fio"

    def __init__(self, arguments, file_bytes):
        self.arguments, self.file_bytes = arguments, file_bytes

    def run(self, pattern, size, depth):
        memory = self.arguments.fio_memory
        environment = {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"} if memory == "advised" else {}
        job = json.loads(output_of([
            "fio", "--name=reader", f"--filename={self.arguments.file}", "--readonly", "--ioengine=io_uring",
            "--fixedbufs=1", "--registerfiles=1", "--direct=1", f"--rw={'randread' if pattern == 'random' else 'read'}",
            "--norandommap", "--randrepeat=0", f"--bs={size}", f"--iodepth={depth}", f"--size={self.file_bytes}",
            "--time_based", f"--runtime={self.arguments.seconds}", "--output-format=json"] +
            (["--iomem=mmaphuge"] if memory == "pool" else []), environment))["jobs"][0]
        gigabytes = job["read"]["io_bytes"] / 1e9
        seconds = job["read"]["runtime"] / 1e3
        cpu_seconds = (job["usr_cpu"] + job["sys_cpu"]) / 100 * job["job_runtime"] / 1e3
        return gigabytes / seconds, cpu_seconds / gigabytes


class Ours:
    name = "dogstar"

    def __init__(self, arguments, file_bytes):
        self.arguments, self.file_bytes = arguments, file_bytes

    def run(self, pattern, size, depth):
        cell = json.loads(output_of([
            self.arguments.bench, self.arguments.file, "--engines", "io_uring", "--direct", "always", "--patterns",
            pattern, "--sizes", str(size), "--depths", str(depth), "--bytes", str(self.file_bytes), "--seconds",
            str(self.arguments.seconds), "--rounds", "1", "--seed", str(random.randrange(1 << 40)), "--json"]))
        return cell["gb_s"], cell["cpu_s_per_gb"]


def measure(arguments, programs, pattern, size, depth):
    """{name: [(GB/s, CPU s/GB) of each round]}"""
    rounds = {program.name: [] for program in programs}
    for number in range(arguments.rounds):
        for program in programs if number % 2 == 0 else reversed(programs):
            rounds[program.name].append(program.run(pattern, size, depth))
    return rounds


def row_of(pattern, size, depth, rounds):
    middle = lambda name, index: statistics.median(values[index] for values in rounds[name])
    ratios = [ours[0] / fio[0] for ours, fio in zip(rounds["dogstar"], rounds["fio"])]
    return {"pattern": pattern, "read_bytes": size, "depth": depth, "fio_gb_s": middle("fio", 0),
            "dogstar_gb_s": middle("dogstar", 0), "ratio": statistics.median(ratios), "ratio_min": min(ratios),
            "ratio_max": max(ratios), "fio_cpu_s_per_gb": middle("fio", 1),
            "dogstar_cpu_s_per_gb": middle("dogstar", 1)}


def print_row(row):
    print(f"| {row['pattern']} | {row['read_bytes'] >> 10} KiB | {row['depth']} | {row['fio_gb_s']:.3f} | "
          f"{row['dogstar_gb_s']:.3f} | {row['ratio']:.3f} ({row['ratio_min']:.2f} to {row['ratio_max']:.2f}) | "
          f"{row['fio_cpu_s_per_gb']:.3f} | {row['dogstar_cpu_s_per_gb']:.3f} |", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file")
    parser.add_argument("--bench", required=True)
    for name in ("sizes", "depths", "patterns"):
        parser.add_argument("--" + name, required=True, type=str.split)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=2)
    parser.add_argument("--fio-memory", choices=("pool", "advised", "small"), default="advised")
    parser.add_argument("--csv", default="")
    arguments = parser.parse_args()
    sizes = [bytes_of(size) for size in arguments.sizes]
    depths = [int(depth) for depth in arguments.depths]
    file_bytes = os.path.getsize(arguments.file) // max(sizes) * max(sizes)
    fio = Fio(arguments, file_bytes)
    programs = [fio, Ours(arguments, file_bytes)]

    before = fio.run("sequential", 1 << 20, 32)[0]
    print("| pattern | read | depth | fio GB/s | dogstar GB/s | dogstar / fio | fio CPU s/GB | dogstar CPU s/GB |")
    print("|---|---|---|---|---|---|---|---|")
    rows = []
    for pattern in arguments.patterns:
        for size in sizes:
            for depth in depths:
                rows.append(row_of(pattern, size, depth, measure(arguments, programs, pattern, size, depth)))
                print_row(rows[-1])
    after = fio.run("sequential", 1 << 20, 32)[0]
    ratios = [row["ratio"] for row in rows]
    print(f"\n{len(rows)} cells, dogstar / fio: median {statistics.median(ratios):.3f}, smallest {min(ratios):.3f}, "
          f"{sum(ratio < 0.95 for ratio in ratios)} below 0.95. CPU s/GB, median: fio "
          f"{statistics.median(row['fio_cpu_s_per_gb'] for row in rows):.3f}, dogstar "
          f"{statistics.median(row['dogstar_cpu_s_per_gb'] for row in rows):.3f}. fio, sequential, 1 MiB, 32 deep: "
          f"{before:.2f} GB/s before, {after:.2f} after.")
    if arguments.csv:
        with open(arguments.csv, "w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, rows[0])
            writer.writeheader()
            writer.writerows(rows)


if __name__ == "__main__":
    main()

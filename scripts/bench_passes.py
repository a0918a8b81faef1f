#!/usr/bin/env python3
"""Full passes over a model larger than memory, beside the disk, beside llama.cpp, beside what `dogstar plan` says.
scripts/bench_offload.sh calls it.

  pass    one budget: seconds per pass over the disk's time for the missing bytes
  curve   budgets as shares of the file: both programs in the same cgroup, a table, a CSV and a plot
          (python3-matplotlib)
  plan    budgets as shares of the file: predicted seconds per token beside measured ones
  steady  one long run; memory sampled every few seconds

A cap is a cgroup limit that counts the page cache too, dropped before each run; our budget is the cap less 5%. The disk's
time is fio's: io_uring, registered buffers in huge pages and file, O_DIRECT, 1 MiB, 32 in flight, over as many bytes of
the file as our passes read (a disk with a cache behind it reads those faster than all), before and after each run.
"""

import argparse
import csv
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import threading
import time

from dogstar_runs import IN_CGROUP, llama_token_seconds, output_of

ROOT = pathlib.Path(__file__).resolve().parent.parent
PROMPT = "Once upon a time"
MIB = 1 << 20


def fail(message):
    sys.exit(f"bench_passes: {message}")


def disk_bandwidth(model, region_bytes, seconds):
    """Bytes per second of fio over the first region_bytes of the file."""
    region = max(256 * MIB, min(region_bytes, os.path.getsize(model))) // MIB * MIB
    huge = {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}
    job = json.loads(output_of([
        "fio", "--name=pass", f"--filename={model}", "--readonly", "--ioengine=io_uring", "--fixedbufs=1",
        "--registerfiles=1", "--direct=1", "--rw=read", "--bs=1M", "--iodepth=32", f"--size={region}", "--time_based",
        f"--runtime={seconds}", "--output-format=json"], huge).stdout)["jobs"][0]
    return job["read"]["io_bytes"] / (job["read"]["runtime"] / 1e3)


def run_ours(args, ram_bytes, tokens, cap_bytes=None):
    """The program's JSON with seconds per pass and bytes per pass added."""
    command = [args.program, "run", args.model, "-p", PROMPT, "-n", str(tokens), "--mode", "dense", "--ram",
               f"{ram_bytes // MIB}MiB", "--temp", "0", "--ignore-eos", "--threads", str(args.threads), "--json"]
    for setting in args.set:
        command += ["--set", setting]
    if cap_bytes:
        command = [IN_CGROUP, str(cap_bytes), *command]
    result = json.loads(output_of(command).stdout)
    passes = len(result["tokens"]) - 1
    result["pass_s"] = result["decode_s"] / passes
    result["pass_bytes"] = result["decode_disk_bytes"] / passes
    return result


def measure(args, ram_bytes, cap_bytes):
    """Alternating: disk, ours, llama.cpp, disk, ours, ..., disk. Medians, and the ratios of each round."""
    # A short run says how many bytes the passes read.
    region = run_ours(args, ram_bytes, 2, cap_bytes)["complement_bytes"]
    rounds, theirs, bandwidths = [], [], []
    if region:
        bandwidths.append(disk_bandwidth(args.model, region, args.fio_seconds))
    for _ in range(args.rounds):
        ours = run_ours(args, ram_bytes, args.tokens, cap_bytes)
        if args.llama:
            theirs.append(llama_token_seconds(args.llama, args.model, PROMPT, args.llama_tokens, args.threads,
                                              cap_bytes))
        if region:
            bandwidths.append(disk_bandwidth(args.model, region, args.fio_seconds))
            ours["disk"] = (bandwidths[-2] + bandwidths[-1]) / 2
            ours["ratio"] = ours["pass_s"] / (ours["pass_bytes"] / ours["disk"])
        rounds.append(ours)
        if ours["peak_rss_bytes"] > ram_bytes:
            fail(f"peak RSS {ours['peak_rss_bytes']} is over the budget of {ram_bytes}")
    median = lambda key: statistics.median(ours[key] for ours in rounds) if key in rounds[0] else None
    return {
        "file_bytes": os.path.getsize(args.model), "ram_bytes": ram_bytes, "cap_bytes": cap_bytes, "region": region,
        "pass_s": median("pass_s"), "pass_bytes": median("pass_bytes"), "ratio": median("ratio"),
        "ratios": [ours.get("ratio") for ours in rounds], "bandwidths": bandwidths,
        "peak_rss_bytes": max(ours["peak_rss_bytes"] for ours in rounds),
        "wait_share": statistics.median(ours["io_wait_s"] / (ours["decode_s"] + ours["prompt_s"]) for ours in rounds),
        "ring_bytes": rounds[0]["memory"]["ring"], "llama_s": statistics.median(theirs) if theirs else None,
    }


def gib(size):
    return f"{size / 2**30:.2f}"


def show_header(args):
    print(f"{os.path.basename(args.model)}, {gib(os.path.getsize(args.model))} GiB, {args.threads} threads, "
          f"{args.rounds} alternating rounds, medians\n")


def show_rows(rows):
    print("| cap, of the file | our budget | ring | read per pass | fio, GB/s | s per pass | x of the disk | tokens/s | "
          "llama.cpp | ratio | file / missing | peak RSS |")
    print("|---|---|---|---|---|---|---|---|---|---|---|---|")
    for row in rows:
        bandwidths = [value / 1e9 for value in row["bandwidths"]]
        disk = f"{min(bandwidths):.2f} to {max(bandwidths):.2f}" if bandwidths else "-"
        ratio = f"{row['ratio']:.2f} ({', '.join(f'{value:.2f}' for value in row['ratios'])})" if row["ratio"] else "-"
        theirs = f"{1 / row['llama_s']:.3f}" if row["llama_s"] else ""
        times = f"{row['llama_s'] / row['pass_s']:.2f}" if row["llama_s"] else ""
        bound = f"{row['file_bytes'] / row['pass_bytes']:.2f}" if row["pass_bytes"] else "-"
        print(f"| {100 * row['cap_bytes'] / row['file_bytes']:.0f}% | {row['ram_bytes'] / MIB:.0f} MiB | "
              f"{row['ring_bytes'] / MIB:.1f} MiB | {gib(row['pass_bytes'])} GiB | {disk} | {row['pass_s']:.3f} | {ratio} | "
              f"{1 / row['pass_s']:.3f} | {theirs} | {times} | {bound} | {row['peak_rss_bytes'] / MIB:.0f} MiB |", flush=True)


def caps_of(args):
    size = os.path.getsize(args.model)
    return [int(size * float(percent) / 100) for percent in args.caps.split(",")]


def command_pass(args):
    ram = int(float(args.ram.removesuffix("MiB")) * MIB)
    show_header(args)
    show_rows([measure(args, ram, int(ram * 1.05))])


def write_csv(rows, path):
    columns = [key for key in rows[0] if key not in ("ratios", "bandwidths")]
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)


def plot(rows, title, path):
    """Tokens per second against the cap, log scale, with what the disk allows."""
    try:
        import matplotlib
        matplotlib.use("Agg")
        from matplotlib import pyplot, ticker
    except ImportError:
        print("no plot: python3-matplotlib is not installed", file=sys.stderr)
        return
    caps = [100 * row["cap_bytes"] / row["file_bytes"] for row in rows]
    figure, axes = pyplot.subplots(figsize=(7, 4.2), layout="constrained")
    axes.plot(caps, [1 / row["pass_s"] for row in rows], "o-", color="#1b6ca8", label="dogstar, dense")
    if rows[0]["llama_s"]:
        axes.plot(caps, [1 / row["llama_s"] for row in rows], "s--", color="#c4572e", label="llama.cpp, mmap")
    disk = [(cap, statistics.mean(row["bandwidths"]) / row["pass_bytes"]) for cap, row in zip(caps, rows)
            if row["pass_bytes"]]
    axes.plot([cap for cap, _ in disk], [rate for _, rate in disk], ":", color="#555555",
              label="disk's limit for the bytes we miss (fio)")
    axes.set(yscale="log", xlabel="memory cap, % of the model file", ylabel="tokens/s", title=title)
    axes.yaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter(ticker.FormatStrFormatter("%g"))
    axes.yaxis.set_minor_formatter(ticker.NullFormatter())
    axes.grid(True, alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=140)
    print(f"\nplot: {path}")


def command_curve(args):
    show_header(args)
    rows = [measure(args, int(cap / 1.05), cap) for cap in caps_of(args)]
    show_rows(rows)
    if args.csv:
        write_csv(rows, args.csv)
    if args.plot:
        plot(rows, f"{os.path.basename(args.model)}, {args.threads} threads", args.plot)


def planned(args, ram_bytes, tiers):
    """Plan's dense seconds per token, from a probe just made: the disk drifts."""
    output_of([args.program, "probe", args.model, "-t", str(args.threads), "-o", tiers])
    settings = [f"tiers={tiers}", *args.set]
    command = [args.program, "plan", args.model, "--ram", f"{ram_bytes // MIB}MiB", "-t", str(args.threads), "-c", "64",
               "--mode", "dense", "--json"]
    for setting in settings:
        command += ["--set", setting]
    plan = json.loads(output_of(command).stdout)
    return plan["budgets"][0]["dense_s"], plan["disk_bytes_per_second"]


def command_plan(args):
    show_header(args)
    print("| budget | probed disk, GB/s | planned, s per token | measured | planned / measured |\n|---|---|---|---|---|")
    worst = 0
    with tempfile.TemporaryDirectory() as folder:
        tiers = folder + "/tiers.json"
        for cap in caps_of(args):
            ratios, lines = [], []
            for _ in range(args.rounds):
                seconds, disk = planned(args, cap, tiers)
                ours = run_ours(argparse.Namespace(**{**vars(args), "set": [*args.set, f"tiers={tiers}"]}), cap, args.tokens)
                ratios.append(seconds / ours["pass_s"])
                lines.append((disk, seconds, ours["pass_s"]))
            at = ratios.index(statistics.median_low(ratios))
            disk, seconds, measured = lines[at]
            worst = max(worst, abs(ratios[at] - 1))
            spread = f"{ratios[at]:.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
            print(f"| {cap / MIB:.0f} MiB ({100 * cap / os.path.getsize(args.model):.0f}%) | {disk / 1e9:.2f} | {seconds:.3f} | "
                  f"{measured:.3f} | {spread} |", flush=True)
    print(f"\nfarthest from measured: {100 * worst:.0f}%")


def rss_of(pid):
    try:
        with open(f"/proc/{pid}/status", encoding="ascii") as file:
            return next(int(line.split()[1]) for line in file if line.startswith("VmRSS")) * 1024
    except (OSError, StopIteration):
        return 0


def command_steady(args):
    """Ends the run by Ctrl-C after --seconds; fails when memory grew after the first tenth."""
    ram = int(float(args.ram.removesuffix("MiB")) * MIB)
    command = [args.program, "run", args.model, "-p", PROMPT, "-n", "-1", "-c", "512", "--context-overflow", "slide", "--ram",
               f"{ram // MIB}MiB", "--temp", "0.8", "--ignore-eos", "--threads", str(args.threads), "--mode", args.mode, "--json"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    out = []
    reader = threading.Thread(target=lambda: out.append(process.stdout.read()))
    reader.start()
    samples, begin = [], time.monotonic()
    while process.poll() is None and time.monotonic() - begin < args.seconds:
        time.sleep(min(5, args.seconds / 20))
        samples.append(rss_of(process.pid))
    process.send_signal(2)
    reader.join()
    result = json.loads(out[0])
    early, late = max(samples[: max(1, len(samples) // 10)]), max(samples)
    print(f"{os.path.basename(args.model)}, {args.mode}, {len(result['tokens'])} tokens in {args.seconds} s, stop {result['stop']}: RSS "
          f"{early / MIB:.1f} MiB in the first tenth, at most {late / MIB:.1f} MiB, peak {result['peak_rss_bytes'] / MIB:.1f} of "
          f"{ram / MIB:.0f} MiB")
    if late > early + MIB or result["peak_rss_bytes"] > ram:
        fail("memory grew")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=["pass", "curve", "plan", "steady"])
    parser.add_argument("model")
    parser.add_argument("--program", default=str(ROOT / "build/release/dogstar"))
    parser.add_argument("--llama", default="", help="path of llama-completion; left out when not given")
    parser.add_argument("--ram", default="2300MiB", help="pass, steady: our budget")
    parser.add_argument("--caps", default="30,40,50,60,70,80,90,100", help="curve, plan: percent of the file")
    parser.add_argument("--tokens", type=int, default=10)
    parser.add_argument("--llama-tokens", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--fio-seconds", type=float, default=3)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--set", action="append", default=[], help="a setting of ours, key=value")
    parser.add_argument("--csv", default="")
    parser.add_argument("--plot", default="", help="curve: PNG to write")
    parser.add_argument("--seconds", type=float, default=600, help="steady")
    parser.add_argument("--mode", default="strict", help="steady")
    args = parser.parse_args()
    {"pass": command_pass, "curve": command_curve, "plan": command_plan, "steady": command_steady}[args.command](args)


if __name__ == "__main__":
    main()

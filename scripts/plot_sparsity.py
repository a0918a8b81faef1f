#!/usr/bin/env python3
"""Plots tables of `dogstar eval --task sparsity --csv`: acceptance and divergence by what a token reads of the FFN.

  scripts/plot_sparsity.py OUTPUT.png NAME=TABLE.csv [NAME=TABLE.csv ...]     (needs matplotlib)
"""
import csv
import sys

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

COLORS = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000", "#999999", "#8c564b", "#bcbd22"]
PANELS = [("strict_accepted_mean", "tokens per full pass, strict, period 16", False),
          ("kl", "KL(full || sparse), nats per token", True)]


def rows_of(path):
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def draw(axes, rows, key, label, logarithmic):
    methods = list(dict.fromkeys(row["method"] for row in rows))
    for color, method in zip(COLORS, methods):
        points = sorted((float(r["read_share"]), float(r[key])) for r in rows if r["method"] == method)
        oracle = any(r["method"] == method and r["oracle"] == "true" for r in rows)
        axes.plot(*zip(*points), color=color, marker="o", markersize=3, linestyle="--" if oracle else "-",
                  label=method + (" (oracle)" if oracle else ""))
    axes.set_xlabel("share of the FFN's row parts that a token reads")
    axes.set_ylabel(label)
    if logarithmic:
        axes.set_yscale("log")
    axes.grid(alpha=0.3)


def main():
    if len(sys.argv) < 3 or any("=" not in argument for argument in sys.argv[2:]):
        sys.exit(__doc__)
    tables = [argument.split("=", 1) for argument in sys.argv[2:]]
    figure, grid = plt.subplots(len(tables), len(PANELS), figsize=(11, 4.2 * len(tables)), squeeze=False)
    for line, (name, path) in zip(grid, tables):
        rows = rows_of(path)
        for axes, (key, label, logarithmic) in zip(line, PANELS):
            draw(axes, rows, key, label, logarithmic)
            axes.set_title(name)
        line[0].legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(sys.argv[1], dpi=130)


if __name__ == "__main__":
    main()

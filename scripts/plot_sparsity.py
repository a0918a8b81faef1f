#!/usr/bin/env python3
"""Plots tables of `dogstar eval --task sparsity --csv`: acceptance and divergence by what a token touches of the FFN.

Methods that need values which no run has (oracles) are dashed. A panel without figures is left out.

  scripts/plot_sparsity.py OUTPUT.png NAME=TABLE.csv [NAME=TABLE.csv ...]     (needs matplotlib)
"""
import csv
import sys

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

COLORS = ["#1f4e9e", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000", "#999999", "#8c564b", "#bcbd22", "#17becf",
          "#7f0000", "#6a3d9a", "#ff69b4"]
PANELS = [("strict_accepted_mean", "tokens per full pass, strict, period 16", False),
          ("kl", "KL(full || sparse), nats per token", True)]


def rows_of(path):
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def methods_of(tables):
    """(method, by layer): one color wherever it appears."""
    return list(dict.fromkeys((row["method"], row["by_layer"] == "true") for _, rows in tables for row in rows))


def draw(axes, rows, methods, key, label, logarithmic):
    for index, (method, by_layer) in enumerate(methods):
        own = [r for r in rows if r["method"] == method and (r["by_layer"] == "true") == by_layer and r[key]]
        if not own:
            continue
        points = sorted((float(r["touched_bytes"]) / float(r["ffn_bytes"]), float(r[key])) for r in own)
        oracle = own[0]["oracle"] == "true"
        axes.plot(*zip(*points), color=COLORS[index % len(COLORS)], marker="s" if by_layer else "o", markersize=3,
                  linestyle="--" if oracle else "-",
                  label=method + (" by layer" if by_layer else "") + (" (sees z)" if oracle else ""))
    axes.set_xlabel("FFN bytes that a token touches / all")
    axes.set_ylabel(label)
    if logarithmic:
        axes.set_yscale("log")
    axes.grid(alpha=0.3)


def main():
    if len(sys.argv) < 3 or any("=" not in argument for argument in sys.argv[2:]):
        sys.exit(__doc__)
    tables = [argument.split("=", 1) for argument in sys.argv[2:]]
    tables = [(name, rows_of(path)) for name, path in tables]
    methods = methods_of(tables)
    panels = [panel for panel in PANELS if any(row[panel[0]] for _, rows in tables for row in rows)]
    figure, grid = plt.subplots(len(tables), len(panels), figsize=(5.5 * len(panels), 4.2 * len(tables)), squeeze=False)
    for line, (name, rows) in zip(grid, tables):
        for axes, (key, label, logarithmic) in zip(line, panels):
            draw(axes, rows, methods, key, label, logarithmic)
            axes.set_title(name)
    known = {}
    for axes in grid.flat:
        for line, label in zip(*axes.get_legend_handles_labels()):
            known.setdefault(label, line)
    labels = list(known)
    figure.legend(list(known.values()), labels, fontsize=8, ncol=min(5, len(labels)), loc="lower center")
    figure.tight_layout(rect=(0, 0.09, 1, 1))
    figure.savefig(sys.argv[1], dpi=100)


if __name__ == "__main__":
    main()

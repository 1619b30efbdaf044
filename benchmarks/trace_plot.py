"""A trace as a plot: time to the first token at each step, a bar per side, from a report's JSON."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.drawing import pyplot_for, save


def plot(report: Mapping[str, Any], path: Path) -> None:
    """Draw the rows to an .svg or .png file."""
    pyplot = pyplot_for(path)
    if pyplot is None:
        return
    steps, sides = (list(dict.fromkeys(row[name] for row in report["rows"])) for name in ("step", "side"))
    seconds = {(row["step"], row["side"]): row["first_token"] for row in report["rows"]}
    figure, axes = pyplot.subplots(figsize=(max(6.4, 1.1 * len(steps)), 4))
    width = 0.8 / len(sides)
    for number, side in enumerate(sides):
        places = [place + (number - (len(sides) - 1) / 2) * width for place in range(len(steps))]
        axes.bar(places, [1e3 * seconds[step, side] for step in steps], width, label=side)
    axes.set(ylabel="ms to the first token", yscale="log", title=report["title"])
    axes.set_xticks(range(len(steps)), steps, rotation=25, ha="right", fontsize="small")
    axes.yaxis.set_major_formatter("{x:g}")
    axes.legend(frameon=False, fontsize="small", ncols=len(sides))
    figure.tight_layout()
    save(pyplot, figure, path)

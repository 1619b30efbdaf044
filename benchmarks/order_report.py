"""What playing a session in each order and way comes to: tables, JSON, and a plot if matplotlib is installed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import accumulate
from pathlib import Path
from statistics import mean, median
from typing import Any

from benchmarks.drawing import pyplot_for, save
from benchmarks.machine import in_words
from benchmarks.play import OCCASIONS, Played
from benchmarks.table import layout, milliseconds, percentile


@dataclass(frozen=True)
class Report:
    """Everything a run found out.

    Attributes:
        title, settings, machine: what was played, and what it ran with and on.
        actions: how many there were of each kind.
        played: one per way and order.
    """

    title: str
    settings: dict[str, Any]
    machine: dict[str, Any]
    actions: dict[str, int]
    played: tuple[Played, ...]

    def as_json(self) -> dict[str, Any]:
        return asdict(self)

    def __str__(self) -> str:
        counts = ", ".join(f"{count} × {what}" for what, count in self.actions.items())
        parts = [self.title, counts, in_words(self.machine), "", self._costs(), ""]
        return "\n".join(
            [*parts, "Tokens computed per question, by what has happened since the last one:", self._why()]
        )

    def _costs(self) -> str:
        tokens = ["questions", "tokens", "median", "p90", "in background"]
        lines = [["asked", "order", *tokens, "first token ms", "p90 ms", "answered exactly"]]
        for played in self.played:
            answers = played.answers
            computed = [answer.computed for answer in answers]
            seconds = [answer.seconds for answer in answers]
            figures = [len(answers), sum(computed), round(median(computed)), percentile(computed, 0.9)]
            figures.append(sum(played.background))
            times = [milliseconds(median(seconds)), milliseconds(percentile(seconds, 0.9))]
            exact = f"{mean(answer.exact for answer in answers):.0%}"
            lines.append([self._way(played), played.order, *(f"{figure:,}" for figure in figures), *times, exact])
        return layout(lines, left={0, 1})

    def _way(self, played: Played) -> str:
        """The way's name, in its first line only."""
        first = next(other for other in self.played if other.way == played.way)
        return played.way.name if first is played else ""

    def _why(self) -> str:
        """Means by occasion, in brackets how many questions there were."""
        counts = Counter(answer.occasion for answer in self.played[0].answers)
        found = [occasion for occasion in OCCASIONS if counts[occasion]]
        lines = [["asked", "order", *(f"{occasion} ({counts[occasion]})" for occasion in found)]]
        for played in self.played:
            means = [mean(a.computed for a in played.answers if a.occasion == occasion) for occasion in found]
            lines.append([self._way(played), played.order, *(f"{value:,.0f}" for value in means)])
        return layout(lines, left={0, 1})


def plot(report: Report, path: Path) -> None:
    """Tokens computed up to each step, for questions and with the background, to an .svg or .png file."""
    pyplot = pyplot_for(path)
    if pyplot is None:
        return
    ways = list(dict.fromkeys(played.way for played in report.played))
    figure, all_axes = pyplot.subplots(1, len(ways), figsize=(4 * len(ways), 3.6), squeeze=False)
    for axes, way in zip(all_axes[0], ways, strict=True):
        for played in report.played:
            if played.way == way:
                asked = accumulate(_asked(played))
                (line,) = axes.plot([tokens / 1000 for tokens in asked], label=played.order)
                if sum(played.background):
                    both = accumulate(map(sum, zip(_asked(played), played.background, strict=True)))
                    label = f"{played.order}, with the background"
                    axes.plot([tokens / 1000 for tokens in both], color=line.get_color(), ls=":", label=label)
        axes.set(title=way.name, xlabel="step")
        axes.legend(frameon=False, fontsize="small")
    all_axes[0][0].set_ylabel("tokens computed, thousands")
    figure.suptitle(report.title, fontsize="medium")
    figure.tight_layout()
    save(pyplot, figure, path)


def _asked(played: Played) -> Sequence[int]:
    """Tokens computed for questions at each step."""
    by_step = {answer.step: answer.computed for answer in played.answers}
    return [by_step.get(step, 0) for step in range(len(played.background))]

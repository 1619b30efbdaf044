"""What prefill comes to: a row per length and way, the goals, a table, and a plot. Knows no engine."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks import goals
from benchmarks.ceilings import Ceilings, Work
from benchmarks.decode_report import ONE
from benchmarks.drawing import pyplot_for, save
from benchmarks.machine import in_words
from benchmarks.table import layout, milliseconds

ENGINE, PEER = "ctx-lsp", "transformers, SDPA"


@dataclass(frozen=True)
class Row:
    """One way to compute a prompt.

    Attributes:
        tokens: new ones it was asked for, behind `before` whose KV is there; `computed` those that were computed.
        first: seconds to the first token of the answer, the median of `samples`.
    """

    tokens: int
    before: int
    side: str
    layout: str
    first: float
    computed: int
    samples: tuple[float, ...]


@dataclass(frozen=True)
class Report:
    """Everything a run found out."""

    title: str
    settings: dict[str, Any]
    machine: dict[str, Any]
    ceilings: Ceilings
    work: Work
    rows: tuple[Row, ...]
    with_goals: bool = False
    wrong: tuple[str, ...] = ()

    def as_json(self) -> dict[str, Any]:
        lengths = dict.fromkeys(row.tokens for row in self.rows if not row.before)
        return {
            **asdict(self),
            "floors": {str(tokens): self.work.prefill_floor(self.ceilings, tokens) for tokens in lengths},
            "goals": [asdict(verdict) for verdict in self.verdicts()],
        }

    def __str__(self) -> str:
        return "\n".join(
            [
                self.title,
                in_words(self.machine),
                str(self.ceilings),
                "",
                self._table(),
                "",
                "Floor: all products of matrices and of causal attention at the speed of a large matrix product.",
                *map(str, self.verdicts()),
            ]
        )

    def verdicts(self) -> list[goals.Verdict]:
        """The goals that this run can be judged by."""
        if not self.with_goals:
            return []
        return [
            goals.PREFILL[row.tokens].judge(row.first, self.ceilings)
            for row in self.rows
            if row.side == ENGINE and row.layout == ONE and not row.before and row.tokens in goals.PREFILL
        ]

    def _table(self) -> str:
        heading = ["new", "before", "side", "layout", "computed", "first token ms", "floor ms", "TFLOP/s", "of matmul"]
        lines = [[*heading, "×"]]
        for index, row in enumerate(self.rows):
            first = not index or (self.rows[index - 1].tokens, self.rows[index - 1].before) != (row.tokens, row.before)
            speed = self.work.prefill_flops(row.computed, row.before) / row.first
            lines.append(
                [
                    f"{row.tokens:,}" if first else "",
                    f"{row.before:,}" if first else "",
                    row.side,
                    row.layout,
                    f"{row.computed:,}",
                    milliseconds(row.first),
                    milliseconds(self.work.prefill_floor(self.ceilings, row.computed, row.before)),
                    f"{speed / 1e12:.3g}",
                    f"{speed / self.ceilings.matmul:.0%}",
                    f"{self._peers(row).first / row.first:.2f}",
                ]
            )
        return layout(lines, left={2, 3})

    def _peers(self, row: Row) -> Row:
        """What transformers took for the same."""
        same = (row.tokens, row.before, PEER)
        return next((other for other in self.rows if (other.tokens, other.before, other.side) == same), row)


def plot(report: Mapping[str, Any], path: Path) -> None:
    """Seconds to the first token over a cold prompt's length, a line per side, from a report's JSON."""
    pyplot = pyplot_for(path)
    cold = [row for row in report["rows"] if not row["before"]]
    if pyplot is None:
        return
    figure, axes = pyplot.subplots(figsize=(6.4, 4))
    for side, name in dict.fromkeys((row["side"], row["layout"]) for row in cold):
        rows = [row for row in cold if (row["side"], row["layout"]) == (side, name)]
        axes.plot([r["tokens"] for r in rows], [1e3 * r["first"] for r in rows], marker="o", label=f"{side}, {name}")
    floors = sorted((int(tokens), 1e3 * seconds) for tokens, seconds in report["floors"].items())
    axes.plot(*zip(*floors, strict=True), ls=":", color="gray", label="floor: the speed of a large matrix product")
    axes.set(xlabel="tokens of a cold prompt", ylabel="ms to the first token", xscale="log", yscale="log")
    axes.set_title(report["title"], fontsize="medium")
    axes.set_xticks([tokens for tokens, _ in floors], [f"{tokens:,}" for tokens, _ in floors])
    axes.minorticks_off()
    axes.yaxis.set_major_formatter("{x:g}")
    axes.legend(frameon=False, fontsize="x-small")
    figure.tight_layout()
    save(pyplot, figure, path)

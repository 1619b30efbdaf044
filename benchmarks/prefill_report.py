"""What cold prefill comes to: a row per length and way, the goals, a table, and a plot. Knows no engine."""

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
    """One way to compute a prompt: `tokens` it was asked for, `computed` that were; `first` seconds to its answer."""

    tokens: int
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
        lengths = dict.fromkeys(row.tokens for row in self.rows)
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
            if row.side == ENGINE and row.layout == ONE and row.tokens in goals.PREFILL
        ]

    def _table(self) -> str:
        lines = [["tokens", "side", "layout", "computed", "first token ms", "floor ms", "TFLOP/s", "of matmul", "×"]]
        for index, row in enumerate(self.rows):
            first = not index or self.rows[index - 1].tokens != row.tokens
            speed = self.work.prefill_flops(row.computed) / row.first
            peer = next((r for r in self.rows if (r.tokens, r.side) == (row.tokens, PEER)), row)
            lines.append(
                [
                    f"{row.tokens:,}" if first else "",
                    row.side,
                    row.layout,
                    f"{row.computed:,}",
                    milliseconds(row.first),
                    milliseconds(self.work.prefill_floor(self.ceilings, row.computed)),
                    f"{speed / 1e12:.3g}",
                    f"{speed / self.ceilings.matmul:.0%}",
                    f"{peer.first / row.first:.2f}",
                ]
            )
        return layout(lines, left={1, 2})


def plot(report: Mapping[str, Any], path: Path) -> None:
    """Seconds to the first token over the prompt's length, a line per side, from a report's JSON."""
    pyplot = pyplot_for(path)
    if pyplot is None:
        return
    figure, axes = pyplot.subplots(figsize=(6.4, 4))
    for side, name in dict.fromkeys((row["side"], row["layout"]) for row in report["rows"]):
        rows = [row for row in report["rows"] if (row["side"], row["layout"]) == (side, name)]
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

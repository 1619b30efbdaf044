"""What the server trace comes to: a row per action and side, goals, a table for people and JSON for programs.

Plain values; knows no servers.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

from benchmarks.goals import RatioVerdict
from benchmarks.machine import in_words
from benchmarks.server_actions import APPEND, EDIT, FRONT, OFF, ON, UP
from benchmarks.server_stream import Reply
from benchmarks.table import layout, milliseconds

MOST = {EDIT: 1 / 5, OFF: 1 / 5, ON: 1 / 5, UP: 1 / 5, FRONT: 1 / 5, APPEND: 1.0}
"""Of the quickest other server's time, the most that this engine may take to the first token after an action."""


@dataclass(frozen=True)
class Sample:
    """One side's answer after one action of one round; `change` is the seconds it took to tell the server of that."""

    round: int
    step: str
    side: str
    change: float
    reply: Reply


@dataclass(frozen=True)
class Row:
    """One side after one action. Seconds are medians over the rounds, `samples` all of them; tokens are of the last.

    Attributes:
        ours: the median of (this engine's seconds / this side's) over the rounds, each within one round.
        fidelity: how many files were used at which fidelity, where the side has such.
    """

    step: str
    side: str
    first_token: float
    change: float
    prompt: int | None
    reused: int | None
    ours: float
    fidelity: dict[str, int]
    samples: tuple[float, ...]


def rows(samples: Sequence[Sample], ours: str) -> list[Row]:
    """A row per action and side, in the order in which they first occur."""
    keys = dict.fromkeys((sample.step, sample.side) for sample in samples)
    seconds = {(s.round, s.step): s.reply.seconds for s in samples if s.side == ours}
    found = []
    for step, side in keys:
        own = [sample for sample in samples if (sample.step, sample.side) == (step, side)]
        last = own[-1].reply
        found.append(
            Row(
                step=step,
                side=side,
                first_token=median(sample.reply.seconds for sample in own),
                change=median(sample.change for sample in own),
                prompt=last.prompt,
                reused=last.reused,
                ours=median(seconds[sample.round, step] / sample.reply.seconds for sample in own),
                fidelity=last.fidelity,
                samples=tuple(sample.reply.seconds for sample in own),
            )
        )
    return found


@dataclass(frozen=True)
class Report:
    """Everything a run found out; `ours` is the name of this engine's side."""

    title: str
    settings: dict[str, Any]
    machine: dict[str, Any]
    files: dict[str, int]
    rows: tuple[Row, ...]
    ours: str
    wrong: tuple[str, ...] = ()

    def as_json(self) -> dict[str, Any]:
        return {**asdict(self), "goals": [{**asdict(verdict), "met": verdict.met} for verdict in self.verdicts()]}

    def verdicts(self) -> Iterator[RatioVerdict]:
        """The goals, each against the server that was the quickest after that action."""
        for step, most in MOST.items():
            others = [row for row in self.rows if row.step == step and row.side != self.ours]
            if others:
                quickest = max(others, key=lambda row: row.ours)
                yield RatioVerdict(f"{step}, of the time of {quickest.side}", quickest.ours, most)

    def __str__(self) -> str:
        parts = [
            self.title,
            in_words(self.machine),
            "",
            self._table(),
            "",
            f"× says how many times faster {self.ours} gave the first token: the median over the rounds.",
            *map(str, self.verdicts()),
        ]
        return "\n".join(parts)

    def _table(self) -> str:
        """One line per row; the action's name stands in its first line only."""
        lines = [["action", "side", "first token ms", "×", "prompt", "reused", "change ms", "fidelity"]]
        for index, row in enumerate(self.rows):
            first = not index or self.rows[index - 1].step != row.step
            is_ours = row.side == self.ours
            lines.append(
                [
                    row.step if first else "",
                    row.side,
                    milliseconds(row.first_token),
                    "" if is_ours else f"{1 / row.ours:.2f}",
                    "" if row.prompt is None else f"{row.prompt:,}",
                    "" if row.reused is None else f"{row.reused:,}",
                    milliseconds(row.change) if is_ours else "",
                    ", ".join(f"{count} {label}" for label, count in row.fidelity.items()),
                ]
            )
        return layout(lines, left={0, 1, 7})

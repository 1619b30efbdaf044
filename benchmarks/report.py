"""What a trace's rounds come to: a row per step and side, the checks, a table for people and JSON for programs.

Plain values; knows nothing of engines or models.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

from benchmarks.ceilings import Ceilings
from benchmarks.goals import Verdict
from benchmarks.machine import in_words
from benchmarks.sides import Answer, Change
from benchmarks.table import layout, milliseconds


@dataclass(frozen=True)
class Sample:
    """One side's change and answer at one step of one round."""

    round: int
    step: str
    side: str
    change: Change
    answer: Answer


@dataclass(frozen=True)
class Row:
    """One side at one step. Seconds are medians over the rounds, `samples` all of them; tokens are of the last round.

    Attributes:
        times_faster: the median of (the peer's seconds / this side's) over the rounds, each within one round.
        fidelity: how many files were used at which fidelity.
    """

    step: str
    side: str
    first_token: float
    cpu: float
    per_token: float | None
    change: float
    background: float
    computed: int
    reused: int
    times_faster: float
    fidelity: dict[str, int]
    samples: tuple[float, ...]


def rows(samples: Sequence[Sample], peer: str) -> list[Row]:
    """A row per step and side, in the order in which they first occur."""
    keys = dict.fromkeys((sample.step, sample.side) for sample in samples)
    peer_seconds = {(s.round, s.step): s.answer.seconds for s in samples if s.side == peer}
    return [_row([s for s in samples if (s.step, s.side) == key], peer_seconds) for key in keys]


def _row(samples: Sequence[Sample], peer_seconds: Mapping[tuple[int, str], float]) -> Row:
    answers = [sample.answer for sample in samples]
    decoding = [answer.per_token for answer in answers if answer.per_token is not None]
    labels = [str(label) for label in (answers[-1].labels or {}).values()]
    return Row(
        step=samples[0].step,
        side=samples[0].side,
        first_token=median(answer.seconds for answer in answers),
        cpu=median(answer.cpu_seconds for answer in answers),
        per_token=median(decoding) if decoding else None,
        change=median(sample.change.host for sample in samples),
        background=median(sample.change.background for sample in samples),
        computed=answers[-1].computed,
        reused=answers[-1].reused,
        times_faster=median(peer_seconds[s.round, s.step] / s.answer.seconds for s in samples),
        fidelity={label: labels.count(label) for label in dict.fromkeys(labels)},
        samples=tuple(answer.seconds for answer in answers),
    )


@dataclass(frozen=True)
class Report:
    """Everything a run found out.

    Attributes:
        title: the trace in words; `settings` and `machine` what it ran with and on.
        disagreements: where exact answers or the peer began with different tokens, in words.
        differing: where instant and auto answers began with another token than exact ones, in words.
        wrong_labels: where fidelities were not what they must be, in words.
        stages: for each step where the engine's time went, in seconds; empty unless asked for.
        ceilings, verdicts: what the machine can do and how the goals were met, where there are goals.
    """

    title: str
    settings: dict[str, Any]
    machine: dict[str, Any]
    files: dict[str, int]
    rows: tuple[Row, ...]
    disagreements: tuple[str, ...]
    differing: tuple[str, ...]
    wrong_labels: tuple[str, ...]
    stages: dict[str, dict[str, float]]
    ceilings: Ceilings | None = None
    verdicts: tuple[Verdict, ...] = ()

    @property
    def wrong(self) -> tuple[str, ...]:
        return self.wrong_labels

    def as_json(self) -> dict[str, Any]:
        return asdict(self)

    def __str__(self) -> str:
        parts = [self.title, in_words(self.machine), "", trace_table(self.rows), "", *self._findings()]
        if self.stages:
            parts += ["", "Where the engine's time went, asked at once (ms, one more round):", stage_table(self.stages)]
        if self.ceilings:
            parts += ["", str(self.ceilings), *map(str, self.verdicts)]
        return "\n".join(parts)

    def _findings(self) -> list[str]:
        return [
            "× says how many times faster than transformers the first token came: the median over the rounds.",
            _finding("First tokens of exact answers and of transformers", self.disagreements, "all agree"),
            _finding("First tokens of instant and auto answers", self.differing, "all as exact"),
            _finding("Fidelity labels", self.wrong_labels, "all as they must be"),
        ]


def _finding(what: str, problems: Sequence[str], fine: str) -> str:
    return f"{what}: {fine}." if not problems else "\n  ".join([f"{what} DIFFER:", *problems])


def trace_table(rows: Sequence[Row]) -> str:
    """One line per row; the step's name stands in its first line only."""
    heading = ["step", "side", "first token ms", "×", "computed", "reused", "change ms", "background ms", "CPU ms"]
    decoding = any(row.per_token is not None for row in rows)
    lines = [heading + ["ms/token"] * decoding + ["fidelity"]]
    for index, row in enumerate(rows):
        step = row.step if not index or rows[index - 1].step != row.step else ""
        fidelity = ", ".join(f"{count} {label}" for label, count in row.fidelity.items())
        figures = [milliseconds(row.first_token), f"{row.times_faster:.2f}", f"{row.computed:,}", f"{row.reused:,}"]
        figures += [milliseconds(row.change), milliseconds(row.background), milliseconds(row.cpu)]
        lines.append([step, row.side, *figures, *([milliseconds(row.per_token)] if decoding else []), fidelity])
    return layout(lines, left={0, 1, len(lines[0]) - 1})


def stage_table(stages: Mapping[str, Mapping[str, float]]) -> str:
    """Milliseconds per stage, one line per step."""
    names = [name for name in next(iter(stages.values())) if name != "steps"]
    lines = [["step", "steps", *names]]
    for step, times in stages.items():
        lines.append([step, f"{times['steps']:.0f}", *(milliseconds(times[name]) for name in names)])
    return layout(lines, left={0})

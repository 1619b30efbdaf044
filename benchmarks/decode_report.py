"""What decoding comes to: a row per context length and way, the goals, a table, and a plot. Knows no engine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks import goals
from benchmarks.ceilings import Ceilings, Work
from benchmarks.drawing import pyplot_for, save
from benchmarks.machine import in_words
from benchmarks.table import layout, milliseconds

ONE, MANY, FILTERED = "one chunk", "32 chunks", "32 of 40 chunks, moved"
LLAMA = "llama.cpp"
"""What the sides' names begin with that are builds of it."""


@dataclass(frozen=True)
class Row:
    """One way to decode over one context.

    Attributes:
        context: tokens it was asked for; `prompt` those it really had.
        answers: decoded at once; the times are of a step, which brings a token to each.
        per_token, mean: median and mean seconds between tokens.
        busy: seconds that the GPU worked for each, where that was profiled.
        compiling: seconds spent on compiling before.
        prefill: prompt tokens per second, from nothing, where that was measured.
    """

    context: int
    side: str
    layout: str
    answers: int
    per_token: float
    mean: float
    prompt: int
    busy: float | None = None
    compiling: float | None = None
    prefill: float | None = None


@dataclass(frozen=True)
class Report:
    """Everything a run found out; `notes` say what peers are, `failed` which could not be measured, and why."""

    title: str
    settings: dict[str, Any]
    machine: dict[str, Any]
    ceilings: Ceilings
    work: Work
    rows: tuple[Row, ...]
    notes: tuple[str, ...] = ()
    failed: tuple[str, ...] = ()
    with_goals: bool = False
    wrong: tuple[str, ...] = ()

    def as_json(self) -> dict[str, Any]:
        return {
            **asdict(self),
            "floors": {str(context): self.work.decode_floor(self.ceilings, context) for context in self._contexts()},
            "goals": [{**asdict(verdict), "met": verdict.met} for verdict in self.verdicts()],
        }

    def __str__(self) -> str:
        return "\n".join(
            [
                self.title,
                in_words(self.machine),
                str(self.ceilings),
                *self.notes,
                *self.failed,
                "",
                self._table(),
                "",
                "Floor: the weights and the KV read once at the speed of a copy. × says how many times faster than",
                "transformers called as it is"
                + (f", × {LLAMA} than its quickest build at that length." if self._has_llama else "."),
                *map(str, self.verdicts()),
            ]
        )

    def verdicts(self) -> list[goals.Verdict | goals.RatioVerdict]:
        """The goals that this run can be judged by."""
        found: list[goals.Verdict | goals.RatioVerdict] = []
        for context in self._contexts():
            one, filtered = (self._engine(context, name) for name in (ONE, FILTERED))
            if self.with_goals and one and context in goals.DECODE:
                found.append(goals.DECODE[context].judge(one.per_token, self.ceilings))
            if one and filtered and context in goals.DECODE:
                what = f"decode over a filtered table at {context:,} tokens"
                found.append(goals.RatioVerdict(what, filtered.per_token / one.per_token, goals.FILTERED_TABLE))
        return found

    def _contexts(self) -> list[int]:
        return list(dict.fromkeys(row.context for row in self.rows))

    def _engine(self, context: int, name: str) -> Row | None:
        return next((r for r in self.rows if (r.context, r.layout, r.answers) == (context, name, 1)), None)

    @property
    def _has_llama(self) -> bool:
        return any(row.side.startswith(LLAMA) for row in self.rows)

    def _times_faster(self, row: Row, than: str) -> str:
        """Than the quickest side at this length whose name has `than`; empty if there is none."""
        others = [other.per_token for other in self.rows if other.context == row.context and than in other.side]
        return f"{min(others) * row.answers / row.per_token:.2f}" if others else ""

    def _table(self) -> str:
        profiled = any(row.busy is not None for row in self.rows)
        heading = ["context", "side", "layout", "answers", "prompt", "ms/token", "mean", "floor", "of floor", "×"]
        heading += [f"× {LLAMA}"] * self._has_llama + ["prefill tok/s"] + ["GPU ms"] * profiled
        lines = [[*heading, "compiling s"]]
        for index, row in enumerate(self.rows):
            first = not index or self.rows[index - 1].context != row.context
            floor = self.work.decode_floor(self.ceilings, row.prompt, row.answers)
            lines.append(
                [
                    f"{row.context:,}" if first else "",
                    row.side,
                    row.layout,
                    str(row.answers),
                    f"{row.prompt:,}",
                    milliseconds(row.per_token),
                    milliseconds(row.mean),
                    milliseconds(floor),
                    f"{row.per_token / floor:.2f}",
                    self._times_faster(row, "eager"),
                    *([self._times_faster(row, LLAMA)] if self._has_llama else []),
                    f"{row.prefill:,.0f}" if row.prefill else "",
                    *([milliseconds(row.busy)] if profiled else []),
                    f"{row.compiling:.0f}" if row.compiling else "",
                ]
            )
        return layout(lines, left={1, 2})


def plot(report: Mapping[str, Any], path: Path) -> None:
    """Milliseconds per token over the length of the context, a line per side, from a report's JSON."""
    pyplot = pyplot_for(path)
    if pyplot is None:
        return
    rows = [row for row in report["rows"] if row["answers"] == 1]
    figure, axes = pyplot.subplots(figsize=(6.4, 4))
    for side, name in dict.fromkeys((row["side"], row["layout"]) for row in rows):
        points = sorted((r["context"], 1e3 * r["per_token"]) for r in rows if (r["side"], r["layout"]) == (side, name))
        axes.plot(*zip(*points, strict=True), marker="o", label=", ".join(filter(None, (side, name))))
    floors = sorted((int(context), 1e3 * seconds) for context, seconds in report["floors"].items())
    axes.plot(*zip(*floors, strict=True), ls=":", color="gray", label="floor: all read once at the speed of a copy")
    axes.set(xlabel="tokens of context", ylabel="ms per token", xscale="log", yscale="log", title=report["title"])
    _plain_ticks(axes, [context for context, _ in floors])
    axes.legend(frameon=False, fontsize="x-small")
    figure.tight_layout()
    save(pyplot, figure, path)


def _plain_ticks(axes: Any, contexts: Sequence[int]) -> None:
    axes.set_xticks(contexts, [f"{context:,}" for context in contexts])
    axes.minorticks_off()
    axes.yaxis.set_major_formatter("{x:g}")

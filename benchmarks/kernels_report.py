"""What the kernels come to: a row per case and kernel, a table, and a plot. Knows no kernels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.ceilings import Ceilings
from benchmarks.drawing import pyplot_for, save
from benchmarks.kernels_cases import Case
from benchmarks.machine import in_words
from benchmarks.table import layout


@dataclass(frozen=True)
class Row:
    """One kernel at one case; `seconds` are of one layer, as are the bytes of KV it reads and its operations."""

    case: Case
    kernel: str
    seconds: float
    read: int
    flops: int


@dataclass(frozen=True)
class Report:
    """Everything a run found out; `failed` says in words what could not be timed."""

    title: str
    settings: dict[str, Any]
    machine: dict[str, Any]
    ceilings: Ceilings
    rows: tuple[Row, ...]
    failed: tuple[str, ...] = ()
    wrong: tuple[str, ...] = ()

    def as_json(self) -> dict[str, Any]:
        return asdict(self)

    def __str__(self) -> str:
        decoding = [row for row in self.rows if row.case.new == 1]
        prefilling = [row for row in self.rows if row.case.new > 1]
        parts = [self.title, in_words(self.machine), str(self.ceilings), *self.failed]
        if decoding:
            parts += ["", "One new token (a layer's attention, KV read once):", self._decode_table(decoding)]
        if prefilling:
            parts += ["", "Many new tokens (a layer's attention):", self._prefill_table(prefilling)]
        return "\n".join(parts)

    def _decode_table(self, rows: list[Row]) -> str:
        lines = [["before", "kernel", "layout", "µs", "TB/s", "of copy"]]
        for row in rows:
            speed = row.read / row.seconds
            figures = [f"{row.seconds * 1e6:.1f}", f"{speed / 1e12:.3g}", f"{speed / self.ceilings.copy:.0%}"]
            lines.append([f"{row.case.before:,}", row.kernel, row.case.layout, *figures])
        return layout(lines, left={1, 2})

    def _prefill_table(self, rows: list[Row]) -> str:
        lines = [["new", "before", "kernel", "layout", "µs", "TFLOP/s", "of matmul"]]
        for row in rows:
            speed = row.flops / row.seconds
            figures = [f"{row.seconds * 1e6:,.0f}", f"{speed / 1e12:.3g}", f"{speed / self.ceilings.matmul:.0%}"]
            lines.append([f"{row.case.new:,}", f"{row.case.before:,}", row.kernel, row.case.layout, *figures])
        return layout(lines, left={2, 3})


def plot(report: Mapping[str, Any], path: Path) -> None:
    """Bytes per second for one new token, operations per second for many, as shares of the ceilings, from JSON."""
    pyplot = pyplot_for(path)
    if pyplot is None:
        return
    figure, both = pyplot.subplots(2, 1, figsize=(8, 8))
    kinds = (
        (True, "read", "copy", "one new token: share of a copy's bytes per second"),
        (False, "flops", "matmul", "many new tokens: share of a matrix product's operations per second"),
    )
    for axes, (decoding, work, ceiling, title) in zip(both, kinds, strict=True):
        rows = [row for row in report["rows"] if (row["case"]["new"] == 1) == decoding]
        _bars(axes, [(_case(row["case"]), _kernel(row), row[work] / row["seconds"]) for row in rows], report, ceiling)
        axes.set_title(title, fontsize="medium")
    figure.suptitle(report["title"], fontsize="medium")
    figure.tight_layout()
    save(pyplot, figure, path)


def _case(case: Mapping[str, Any]) -> str:
    return f"{case['before']:,}" if case["new"] == 1 else f"{case['new']:,} behind\n{case['before']:,}"


def _kernel(row: Mapping[str, Any]) -> str:
    """Whatever torch kernel was the quickest is one bar."""
    if row["kernel"].startswith("torch SDPA"):
        return "torch's quickest, contiguous"
    return f"{row['kernel']}, {row['case']['layout']}"


def _bars(axes: Any, points: list[tuple[str, str, float]], report: Mapping[str, Any], ceiling: str) -> None:
    cases = list(dict.fromkeys(case for case, _, _ in points))
    kernels = list(dict.fromkeys(kernel for _, kernel, _ in points))
    width = 0.8 / max(1, len(kernels))
    for number, kernel in enumerate(kernels):
        own = {case: speed / report["ceilings"][ceiling] for case, name, speed in points if name == kernel}
        places = [place + (number - (len(kernels) - 1) / 2) * width for place in range(len(cases))]
        axes.bar(places, [own.get(case, 0) for case in cases], width, label=kernel)
    axes.set_xticks(range(len(cases)), cases, fontsize="small")
    axes.yaxis.set_major_formatter("{x:.0%}")
    axes.legend(frameon=False, fontsize="x-small")

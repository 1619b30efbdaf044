"""All that was measured of repairs, as tables. Knows no model."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from statistics import fmean, median

from benchmarks.machine import in_words
from benchmarks.repairs_criteria import SAFE, Judged, criteria_table
from benchmarks.repairs_measure import Sample
from benchmarks.table import layout

_HEADINGS = ("repair", "cost %", "KL", "worst", "median", f"≤ {SAFE}", "KL, answer", "top-1", "worst", "same answer")


@dataclass(frozen=True)
class Report:
    """Its string is what the benchmark prints; `sets` are the packages whose files were read."""

    model: str
    machine: dict[str, str | int | float]
    sets: tuple[str, ...]
    samples: tuple[Sample, ...]
    judged: tuple[Judged, ...]

    def __str__(self) -> str:
        text = [f"Repairs of {self.model} over {', '.join(self.sets)} ({in_words(self.machine)})"]
        text += [self._table(case) for case in dict.fromkeys(sample.case for sample in self.samples)]
        criteria = criteria_table(self.judged, self.samples)
        return "\n\n".join([*text, f"## What tells beforehand\n\n{criteria}"] if criteria else text)

    def _table(self, case: str) -> str:
        samples = [sample for sample in self.samples if sample.case == case]
        kinds = list(dict.fromkeys(sample.question for sample in samples))
        lines = [[*_HEADINGS, *(f"KL, {kind}" for kind in kinds)]]
        for repair in dict.fromkeys(sample.repair for sample in samples):
            rows = [sample for sample in samples if sample.repair == repair]
            by_kind = [fmean(row.kl for row in rows if row.question == kind) for kind in kinds]
            lines.append([repair, *_figures(rows), *(f"{kl:.4f}" for kl in by_kind)])
        return f"## {case}\n\n{layout(lines, left=(0,))}"


def _figures(rows: list[Sample]) -> Iterator[str]:
    kl, top1 = [row.kl for row in rows], [row.top1 for row in rows]
    yield f"{fmean(row.cost for row in rows):.1f}"
    yield from (f"{value:.4f}" for value in (fmean(kl), max(kl), median(kl)))
    yield f"{fmean(value <= SAFE for value in kl):.2f}"
    yield f"{fmean(row.kl_answer for row in rows):.4f}"
    yield from (f"{value:.3f}" for value in (fmean(top1), min(top1)))
    yield f"{fmean(row.same for row in rows):.2f}"

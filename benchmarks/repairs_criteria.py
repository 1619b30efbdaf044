"""What could tell beforehand whether near KV is safe to read, and how well each such figure does.

Knows the repairs "none" and "first16" by name: how far off answers are without repair, and with the plainest.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from benchmarks.repairs_measure import Measured, Sample
from benchmarks.table import layout

SAFE = 0.005
"""KL up to which an answer counts as true."""

GROUPS = {
    "drops": ("drop",),
    "edits and moves": ("edit", "move", "swap", "recency"),
    "inserts and anchored": ("insert", "anchor"),
    "all": ("",),
}
"""Beginnings of the names of cases that are judged together."""

BASES = ("none", "first16")


@dataclass(frozen=True)
class Judged:
    """What was known of one question over the KV of one case; `figures` by name, see `judge`."""

    set: str
    case: str
    question: str
    figures: dict[str, float]


def judge(measured: Measured) -> Iterator[Judged]:
    """The figures for each question. Those with `q` know the question, those with `oracle` also a cold run."""
    case, near, count = measured.case, measured.case.near, len(measured.case.ids)
    window = measured.first_deviation(16)
    begins = torch.cat([torch.arange(s.first, min(s.first + 16, s.end)) for s in case.stale_files])
    late = torch.cat([torch.arange(s.first + 8, min(s.first + 16, s.end)) for s in case.stale_files])
    for asked, sight in zip(measured.asked, measured.sights, strict=True):
        figures: dict[str, Tensor | float] = {
            "paid": case.lost[near].mean(),
            "paid, worst file": max(float(case.lost[s.first : s.end].mean()) for s in case.stale),
            "paid, first 16": case.lost[begins].mean(),
            "paid, per token of all": case.lost.sum() / count,
            "gained": case.gained / count,
            "near tokens": len(near) / count,
            "deviation, first 16": window[begins].mean(),
            "deviation, 9th to 16th": window[late].mean(),
            "q": sight.mass[near].sum(),
            "q * paid": (sight.mass * case.lost).sum(),
            "q * deviation, 9th to 16th": sight.mass[near].sum() * window[late].mean(),
            "oracle deviation": sight.deviation[near].mean(),
            "oracle q * deviation": (sight.mass * sight.deviation)[near].sum(),
        }
        named = {name: float(value) for name, value in figures.items()}
        yield Judged(measured.set, case.name, asked.kind, named)


def criteria_table(judged: Sequence[Judged], samples: Sequence[Sample]) -> str:
    """Spearman's rank correlation of each figure with KL, and how well a threshold on it tells who is safe.

    The threshold is the highest that calls no question safe that isn't; `found` is the share of the safe questions
    below it, and `found, 5 %` the same if one in twenty of the others may be taken for safe.
    """
    kl = {(s.set, s.case, s.question, s.repair): s.kl for s in samples}
    known = [one for one in judged if all((one.set, one.case, one.question, base) in kl for base in BASES)]
    lines = [["cases", "figure", *(f"{base}: {what}" for base in BASES for what in ("rho", "found", "found, 5 %"))]]
    for group, beginnings in GROUPS.items():
        members = [one for one in known if one.case.startswith(beginnings)]
        for name in members[0].figures if len(members) > 3 else ():
            values = np.array([one.figures[name] for one in members])
            if values.std() > 0:
                cells = [_cells(values, np.array([kl[m.set, m.case, m.question, b] for m in members])) for b in BASES]
                lines.append([group, name, *(cell for half in cells for cell in half)])
    return layout(lines, left=(0, 1)) if len(lines) > 1 else ""


def _cells(values: NDArray[np.float64], kl: NDArray[np.float64]) -> Iterator[str]:
    safe = kl <= SAFE
    yield f"{np.corrcoef(_ranks(values), _ranks(kl))[0, 1]:.3f}"
    for missed in (0, 0.05):
        threshold = np.quantile(values[~safe], missed) if (~safe).any() else np.inf
        yield f"{(values[safe] < threshold).mean():.2f}" if safe.any() else ""


def _ranks(values: NDArray[np.float64]) -> NDArray[np.int64]:
    return np.argsort(np.argsort(values))

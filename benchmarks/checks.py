"""What a run checks besides its times: that answers begin alike, and that fidelity labels are what they must be."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.report import Sample
from benchmarks.sides import Answer
from benchmarks.steps import Labels, Step, instant_labels
from engine.types import FidelityLabel


def differences(samples: Sequence[Sample], reference: str, others: Sequence[str]) -> list[str]:
    """Where the first tokens of `others` differ from the reference's, in words."""
    expected = {(s.round, s.step): s.answer for s in samples if s.side == reference}
    found = []
    for sample in samples:
        answer = expected[sample.round, sample.step]
        if sample.side in others and sample.answer.text != answer.text:
            found.append(f"{sample.step}: {sample.side} {sample.answer.text!r}, {reference} {_said(answer)}")
    return list(dict.fromkeys(found))


def _said(answer: Answer) -> str:
    gap = "" if answer.gap is None else f" (its next best is {answer.gap:.2g} lower)"
    return f"{answer.text!r}{gap}"


def wrong_labels(samples: Sequence[Sample], steps: Sequence[Step], instant: str) -> list[str]:
    """Where fidelity labels are not what they must be, in words; `instant` is the side that may use KV as it is."""
    as_it_is = instant_labels([step.files for step in steps])
    expected = {step.name: labels for step, labels in zip(steps, as_it_is, strict=True)}
    found = []
    for sample in samples:
        labels = expected[sample.step]
        must: Labels = labels if sample.side == instant else dict.fromkeys(labels, FidelityLabel.EXACT)
        if sample.answer.labels not in (None, must):
            found.append(f"{sample.step}: {sample.side} {_listed(sample.answer.labels or {})}, must be {_listed(must)}")
    return list(dict.fromkeys(found))


def _listed(labels: Labels) -> str:
    return ", ".join(f"{name} {label}" for name, label in labels.items())

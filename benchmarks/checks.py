"""What a run checks besides its times: that answers begin alike, and that fidelity labels are what they must be."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.report import Sample
from benchmarks.sides import Answer
from benchmarks.steps import Labels, Step, expected_labels
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


def wrong_labels(samples: Sequence[Sample], steps: Sequence[Step], instant: str, auto: str) -> list[str]:
    """Where fidelity labels are not what they must be, in words.

    The side `instant` may use KV as it is; the side `auto` either does or is exact, at each step anew.
    """
    compositions = [step.files for step in steps]
    found = []
    for played in _traces(samples):
        answers = {sample.step: sample.answer.labels for sample in played}
        modes = [_as_it_is(played[0].side, answers.get(step.name), instant, auto) for step in steps]
        for step, must in zip(steps, expected_labels(compositions, modes), strict=True):
            labels = answers.get(step.name)
            if labels is not None and not _as_good(labels, must):
                found.append(f"{step.name}: {played[0].side} {_listed(labels)}, must be {_listed(must)}")
    return list(dict.fromkeys(found))


def _as_good(labels: Labels, must: Labels) -> bool:
    """Whether each is what it must be, or near where anchored would do: it was then computed anew."""
    better = {name: FidelityLabel.NEAR for name, label in must.items() if label is FidelityLabel.ANCHORED}
    return labels.keys() == must.keys() and all(
        label in (must[name], better.get(name, must[name])) for name, label in labels.items()
    )


def _traces(samples: Sequence[Sample]) -> list[list[Sample]]:
    """The samples of each side in each round."""
    keys = dict.fromkeys((sample.round, sample.side) for sample in samples)
    return [[sample for sample in samples if (sample.round, sample.side) == key] for key in keys]


def _as_it_is(side: str, labels: Labels | None, instant: str, auto: str) -> bool:
    """Whether the side has used KV as it is."""
    return side == instant or (
        side == auto and any(label is not FidelityLabel.EXACT for label in (labels or {}).values())
    )


def _listed(labels: Labels) -> str:
    return ", ".join(f"{name} {label}" for name, label in labels.items())

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


def wrong_labels(
    samples: Sequence[Sample], steps: Sequence[Step], instant: str, auto: str, *, settled: bool = False
) -> list[str]:
    """Where fidelity labels are not what they must be, in words.

    The side `instant` may use KV as it is; the side `auto` either does or is exact, at each step anew. `settled` says
    that all was made exact before each change.
    """
    rests = 2 if settled else 1
    compositions = [step.files for step in steps for _ in range(rests)]
    found = []
    for played in _traces(samples):
        answers = {sample.step: sample.answer for sample in played}
        asked = [(step, answers[step.name]) for step in steps if step.name in answers]
        modes = [_as_it_is(played[0].side, answers.get(step.name), instant, auto) for step in steps]
        then = [mode for asked_so in modes for mode in (asked_so, False)[:rests]]
        musts = dict(zip((step.name for step in steps), expected_labels(compositions, then)[::rests], strict=True))
        for step, answer in asked:
            if answer.labels is not None and not _as_good(answer.labels, musts[step.name], answer.anew):
                listed = f"{_listed(answer.labels)}, must be {_listed(musts[step.name])}"
                found.append(f"{step.name}: {played[0].side} {listed}")
    return list(dict.fromkeys(found))


def _as_good(labels: Labels, must: Labels, anew: frozenset[str]) -> bool:
    """Whether each is what it must be, or better because it was computed anew.

    Near will do for anchored; exact will do for what was computed anew in this answer, behind nothing but exact.
    """
    exact_before = True
    for name, label in labels.items():
        better = {must.get(name)}
        if must.get(name) is FidelityLabel.ANCHORED:
            better.add(FidelityLabel.NEAR)
        if name in anew and exact_before:
            better.add(FidelityLabel.EXACT)
        if label not in better:
            return False
        exact_before = exact_before and label is FidelityLabel.EXACT
    return labels.keys() == must.keys()


def _traces(samples: Sequence[Sample]) -> list[list[Sample]]:
    """The samples of each side in each round."""
    keys = dict.fromkeys((sample.round, sample.side) for sample in samples)
    return [[sample for sample in samples if (sample.round, sample.side) == key] for key in keys]


def _as_it_is(side: str, answer: Answer | None, instant: str, auto: str) -> bool:
    """Whether the side has used KV as it is."""
    labels = (answer.labels if answer else None) or {}
    return side == instant or (side == auto and any(label is not FidelityLabel.EXACT for label in labels.values()))


def _listed(labels: Labels) -> str:
    return ", ".join(f"{name} {label}" for name, label in labels.items())

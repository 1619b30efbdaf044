"""Rounds of the trace: all sides go through it together, so that what disturbs one disturbs all."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from benchmarks.corpus import SourceFile
from benchmarks.report import Sample
from benchmarks.sides import EngineSide, Side
from benchmarks.steps import Step

_WARM_UP_LINES = 6


def shortened(files: Sequence[SourceFile]) -> list[SourceFile]:
    """The files' beginnings."""
    return [dataclasses.replace(f, text="".join(f.text.splitlines(True)[:_WARM_UP_LINES])) for f in files]


def warm_up(sides: Sequence[Side], steps: Sequence[Step]) -> None:
    """Go through a trace once without looking at it."""
    play(sides, steps, 0)


def play(sides: Sequence[Side], steps: Sequence[Step], number: int) -> list[Sample]:
    """One round of fresh traces, numbered `number`: a sample per step and side."""
    for side in sides:
        side.begin()
    try:
        return [sample for step in steps for sample in _play_step(sides, step, number)]
    finally:
        for side in sides:
            side.end()


def _play_step(sides: Sequence[Side], step: Step, number: int) -> list[Sample]:
    changes = {side.name: side.change(step) for side in sides}
    ids = next(side.prompt(step) for side in sides if isinstance(side, EngineSide))
    return [Sample(number, step.name, side.name, changes[side.name], side.ask(step, ids)) for side in sides]

"""As many threads as a step is quicker with, whatever else the machine does while that is tried."""

from __future__ import annotations

from typing import cast

import pytest

from engine.native.prepare import quickest
from engine.native.stepper import Stepper


class FakeStepper:
    """Steps take `seconds` by the number of threads, of which the last is kept from its core for the share `kept`."""

    def __init__(self, seconds: dict[int, float], kept: float = 0.0) -> None:
        self.threads = max(seconds)
        self.kept = 0.0
        self.now = 0.0
        self._seconds = seconds
        self._kept = kept

    def step(self, arrays: object) -> None:
        crowded = self._kept if self.threads == max(self._seconds) else 0.0
        self.now += self._seconds[self.threads] / (1 - crowded)
        self.kept = crowded

    def quickest(self) -> int:
        return quickest(cast(Stepper, self), lambda: self.now)


@pytest.mark.parametrize(
    ("seconds", "threads"),
    [
        ({1: 10.0}, 1),
        ({1: 10.0, 2: 6.0}, 2),
        ({1: 10.0, 2: 9.8}, 1),
        ({1: 10.0, 2: 6.0, 4: 5.9, 6: 5.0}, 6),
        ({1: 10.0, 2: 6.0, 4: 7.0, 8: 9.0}, 2),
    ],
)
def test_threads_that_help(seconds: dict[int, float], threads: int) -> None:
    assert FakeStepper(seconds).quickest() == threads


def test_threads_that_others_crowd_out_are_not_given_up() -> None:
    assert FakeStepper({1: 10.0, 2: 6.0}, kept=0.5).quickest() == 2
    assert FakeStepper({1: 10.0, 2: 9.8}, kept=0.5).quickest() == 2
    assert FakeStepper({1: 10.0, 2: 9.8}, kept=0.1).quickest() == 1

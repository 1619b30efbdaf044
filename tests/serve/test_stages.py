"""The stages of a start: how long each message was the current one, and how a person reads it."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from engine.serve.stages import Stage, Stages, in_words

TICK = 0.02
"""Linux counts in hundredths of a second when a process began."""


def test_each_stage_lasts_until_the_next_one() -> None:
    times = iter([10.0, 11.0, 11.5, 14.0])
    stages = Stages("starting", age=0.5, clock=lambda: next(times))
    stages.enter("Loading weights")
    stages.enter("Trying the model")
    assert stages.past == (Stage("starting", 1.5), Stage("Loading weights", 0.5))
    stages.enter("ready")
    assert stages.past[-1] == Stage("Trying the model", 2.5)


def test_a_stage_that_is_reported_again_goes_on() -> None:
    times = iter([0.0, 1.0, 5.0])
    stages = Stages("starting", clock=lambda: next(times))
    for message in ("Loading weights", "Loading weights", "ready"):
        stages.enter(message)
    assert stages.past == (Stage("starting", 1.0), Stage("Loading weights", 4.0))


def test_in_words() -> None:
    stages = (Stage("starting", 0.66), Stage("Loading weights", 0.25))
    assert in_words(stages) == "0.9 s: starting 0.7, loading weights 0.2"


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc")
def test_a_process_began_before_its_first_line() -> None:
    code = "from engine.serve.stages import process_age; print(process_age())"
    began = time.perf_counter()
    age = float(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)
    assert 0 < age < time.perf_counter() - began + TICK

"""What the start of an engine is taken up with: its stages and how long each took. Knows nothing of what they do."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

_START_TICKS = 19
"""Which of the fields behind the name in Linux's /proc/PID/stat says when the process began, after the machine did."""


@dataclass(frozen=True)
class Stage:
    """`message` is what /health said meanwhile."""

    message: str
    seconds: float


class Stages:
    """Times one stage after the other. Not thread-safe.

    Attributes:
        past: the stages that are over, in their order.
    """

    def __init__(self, first: str, age: float = 0.0, *, clock: Callable[[], float] = time.perf_counter) -> None:
        """The stage called `first` has been going on for `age` seconds."""
        self.past: tuple[Stage, ...] = ()
        self._clock = clock
        self._message, self._began = first, clock() - age

    def enter(self, message: str) -> None:
        """The next stage begins, unless it is the one that goes on already."""
        if message != self._message:
            now = self._clock()
            self.past = (*self.past, Stage(self._message, now - self._began))
            self._message, self._began = message, now


def in_words(stages: Sequence[Stage]) -> str:
    """E.g. ``4.1 s: starting 0.7, importing the tensor library 2.1, …``."""
    parts = ", ".join(f"{stage.message[:1].lower()}{stage.message[1:]} {stage.seconds:.1f}" for stage in stages)
    return f"{sum(stage.seconds for stage in stages):.1f} s: {parts}"


def process_age() -> float:
    """Seconds since this process began, its interpreter's own start included; where Linux doesn't tell, since now."""
    try:
        _, _, fields = Path("/proc/self/stat").read_text().rpartition(")")
        began = int(fields.split()[_START_TICKS]) / os.sysconf("SC_CLK_TCK")
        return time.clock_gettime(time.CLOCK_BOOTTIME) - began
    except (OSError, AttributeError):
        return 0.0

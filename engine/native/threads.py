"""How many threads the next step uses: as many as help, fewer while other processes want the cores.

A step's threads wait for each other some hundred times, so one that shares its core keeps all of them waiting: with one
other process busy on two cores, two threads took twice as long as one. Knows nothing of what a step computes.
"""

from __future__ import annotations

import time
from collections.abc import Callable

CROWDED = 0.25
"""Share of a step's time for which a thread must be kept from its core to count as crowded out."""
_STEPS = 4
_FIRST_WAIT, _LONGEST_WAIT = 1.0, 16.0
"""Seconds until more threads are tried again; doubled each time that they are crowded out again."""


class Threads:
    """The number of threads, from 1 to `most`.

    Attributes:
        now: for the next step.
    """

    def __init__(self, most: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.most = self.now = most
        self._clock = clock
        self._kept = 0.0
        self._wait = _FIRST_WAIT
        self._changed = clock()

    def note(self, kept: float) -> None:
        """A step with `now` threads is done; for this share of it one of them was kept from its core."""
        self._kept += (kept - self._kept) / _STEPS
        since = self._clock() - self._changed
        if self.now > 1 and self._kept > CROWDED:
            self._wait = min(2 * self._wait, _LONGEST_WAIT) if since < self._wait else _FIRST_WAIT
            self._become(self.now // 2)
        elif self.now < self.most and since >= self._wait:
            self._become(min(2 * self.now, self.most))

    def _become(self, threads: int) -> None:
        self.now, self._kept, self._changed = threads, 0.0, self._clock()

"""Slices: how many tokens of a prompt one step computes, by how long somebody would wait for it.

Asks for step times and positions only; knows nothing of questions, chunks or devices.
"""

from __future__ import annotations

from collections.abc import Callable

_SHORT, _LONG = 0.02, 0.25
"""Seconds a step is meant to take that others wait for (some take longer, and none should take 0.025), and one that
only its own cancellation waits for."""

_UNKNOWN, _FEWEST, _MOST, _GRAIN = 256, 128, 8192, 64
"""Tokens of a slice before anything was measured; the fewest where a device is slower than that; the most; and what
they are a multiple of."""

SliceSize = Callable[[int], int]
"""Most tokens of a slice whose first token stands at this global position."""


class Slices:
    """Sizes in tokens, each for a slice that begins at a global position; never larger at a later one."""

    def __init__(self, step_tokens: Callable[[float, int], int | None], fixed: int | None = None) -> None:
        """`step_tokens`: most tokens that one step computes in so many seconds at a position; None if nobody knows.

        `fixed`: the size of them all, whatever is measured.
        """
        self._step_tokens = step_tokens
        self._fixed = fixed

    def waited_for(self, position: int) -> int:
        """Of background work, since a question may come at any moment, and beside answers, which go on afterwards."""
        return self._within(_SHORT, position)

    def alone(self, position: int) -> int:
        """Of a question with no answers beside it: larger ones are computed faster."""
        return self._within(_LONG, position)

    def _within(self, seconds: float, position: int) -> int:
        if self._fixed is not None:
            return self._fixed
        tokens = self._step_tokens(seconds, position)
        if tokens is None:
            return _UNKNOWN
        return min(max(tokens - tokens % _GRAIN, _FEWEST), _MOST)

"""Slices: how many tokens of a prompt one step computes, by how long somebody would wait for it.

Asks for step times and positions only; knows nothing of questions, chunks or devices.
"""

from __future__ import annotations

from collections.abc import Callable

_SHORT, _LONG, _INTERRUPTIBLE = 0.02, 0.25, 1.0
"""Seconds a step is meant to take that others wait for (some take longer, and none should take 0.025), one that only
its own cancellation waits for, and one that is given up when it is unwanted, see `Runner`."""

_UNKNOWN, _FEWEST, _MOST, _GRAIN = 256, 128, 8192, 64
"""Tokens of a slice before anything was measured; the fewest where a device is slower than that; the most; and what
they are a multiple of."""

SliceSize = Callable[[int], int]
"""Most tokens of a slice whose first token stands at this global position."""


class Slices:
    """Sizes in tokens, each for a slice that begins at a global position; never larger at a later one."""

    def __init__(
        self,
        step_tokens: Callable[[float, int], int | None],
        fixed: int | None = None,
        *,
        interruptible: bool = False,
    ) -> None:
        """`step_tokens`: most tokens that one step computes in so many seconds at a position; None if nobody knows.

        Args:
            fixed: the size of them all, whatever is measured.
            interruptible: whether steps are given up when they are unwanted.
        """
        self._step_tokens = step_tokens
        self._fixed = fixed
        self._alone = _INTERRUPTIBLE if interruptible else _LONG
        self._background = _INTERRUPTIBLE if interruptible else _SHORT

    def waited_for(self, position: int) -> int:
        """Beside answers, which go on afterwards."""
        return self._within(_SHORT, position)

    def background(self, position: int) -> int:
        """Of work that nobody asked for: a question may come at any moment."""
        return self._within(self._background, position)

    def alone(self, position: int) -> int:
        """Of a question with no answers beside it: larger ones are computed faster."""
        return self._within(self._alone, position)

    def _within(self, seconds: float, position: int) -> int:
        if self._fixed is not None:
            return self._fixed
        tokens = self._step_tokens(seconds, position)
        if tokens is None:
            return _UNKNOWN
        return min(max(tokens - tokens % _GRAIN, _FEWEST), _MOST)

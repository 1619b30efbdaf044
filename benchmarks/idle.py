"""Pauses in which the background computes so many tokens and no more, however fast the machine is.

A person's pause is a time, but what is done in it must be the same in every run. Reaches into the engine, as only a
measurement may.
"""

from __future__ import annotations

from engine import Engine
from engine.runtime.scheduler import StepRow


class Pauses:
    """Holds an engine's background work back but for what `take` allows.

    Attributes:
        computed: tokens computed in the background so far.
    """

    def __init__(self, engine: Engine) -> None:
        self._state = engine._state
        self._worker = engine._worker
        self._next_rows = self._state.scheduler._upkeep_rows
        self._allowed = 0
        self.computed = 0
        with self._state.changed:
            self._state.scheduler._upkeep_rows = self._rows  # type: ignore[method-assign]

    def _rows(self) -> list[StepRow]:
        """In the scheduler's place: the next background step, while one is allowed."""
        if self._allowed <= 0:
            return []
        rows = self._next_rows()
        tokens = sum(len(row.tokens) for row in rows)
        self._allowed -= tokens
        self.computed += tokens
        return rows

    def take(self, tokens: int | None) -> None:
        """Let the background compute `tokens`, or all it has to if that is None, and wait until it has.

        A step that goes beyond is taken off the next pause.
        """
        with self._state.changed:
            end = self._worker.tokens_prefilled - self.computed
            self._allowed = self._allowed + tokens if tokens is not None else 1 << 60
            self._state.changed.notify_all()
            self._state.changed.wait_for(
                lambda: (
                    self._worker.tokens_prefilled - self.computed == end
                    and (self._allowed <= 0 or not self._state.scheduler.upkeep)
                )
            )
            self._allowed = min(self._allowed, 0)

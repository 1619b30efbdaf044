"""Sources whose text has to be brought somewhere, in the order in which they changed, and which of them have rested.

Knows names and time; knows nothing of texts.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable


class Pending:
    """What waits to be brought.

    Invariant: a source has a timer only while it waits.

    Attributes:
        rested: set when a source has rested long enough, or several are to be looked at.
    """

    def __init__(self) -> None:
        self.rested = asyncio.Event()
        self._sources: dict[str, None] = {}
        self._timers: dict[str, asyncio.TimerHandle] = {}

    def __contains__(self, source: str) -> bool:
        return source in self._sources

    def rest(self, source: str, seconds: float) -> None:
        """It changed now, and may be brought when it hasn't changed again for so long."""
        self._sources[source] = None
        if source in self._timers:
            self._timers[source].cancel()
        self._timers[source] = asyncio.get_running_loop().call_later(seconds, self._has_rested, source)

    def add(self, sources: Iterable[str]) -> None:
        """Those that may be brought at once."""
        self._sources |= dict.fromkeys(sources)

    def put_back(self, sources: Iterable[str]) -> None:
        """They were taken and could not be brought: their turn is before the others'."""
        self._sources = {**dict.fromkeys(sources), **self._sources}

    def next(self, *, only_rested: bool) -> str | None:
        return next((source for source in self._sources if not (only_rested and source in self._timers)), None)

    def take(self, source: str) -> None:
        self._sources.pop(source, None)
        if (timer := self._timers.pop(source, None)) is not None:
            timer.cancel()

    def cancel_timers(self) -> None:
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()

    def _has_rested(self, source: str) -> None:
        del self._timers[source]
        self.rested.set()

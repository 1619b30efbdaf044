"""Who is here: clients of the process, users of each context, and when either has been left alone for too long.

Knows counts and clocks. All of it lives on the event loop's thread; what is done about absence is told by callbacks.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

logger = logging.getLogger(__name__)
Clock = Callable[[], float]


class Visits:
    """How many are here now, and since when nobody is."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._here = 0
        self._left = clock()

    @property
    def here(self) -> int:
        return self._here

    @contextmanager
    def visit(self) -> Iterator[None]:
        self._here += 1
        try:
            yield
        finally:
            self._here -= 1
            self._left = self._clock()

    def absence(self) -> float:
        """Seconds since the last visit ended; 0 while one goes on."""
        return 0.0 if self._here else self._clock() - self._left


@dataclass
class Attendance:
    """Clients of the process (requests in flight, open event streams), and the same for each context."""

    clock: Clock = time.monotonic
    clients: Visits = field(init=False)
    _contexts: dict[str, Visits] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        self.clients = Visits(self.clock)

    @contextmanager
    def use_context(self, context: str) -> Iterator[None]:
        """Keep a context alive, whether it exists yet or not."""
        visits = self._contexts.setdefault(context, Visits(self.clock))
        with visits.visit():
            yield

    def forget_context(self, context: str) -> None:
        """Stop looking after a context that was dropped, unless somebody still watches it."""
        visits = self._contexts.get(context)
        if visits is not None and not visits.here:
            del self._contexts[context]

    def abandoned_contexts(self, timeout: float) -> list[str]:
        """Contexts that nobody has used for `timeout` seconds."""
        return [context for context, visits in self._contexts.items() if visits.absence() >= timeout]


@dataclass(frozen=True)
class Housekeeper:
    """Drops abandoned contexts, and ends the process when nobody has been there for the idle timeout."""

    attendance: Attendance
    idle_timeout: Callable[[], float]  # seconds; infinite for never
    drop_context: Callable[[str], Awaitable[None]]
    tidy: Callable[[], None]  # done on every round
    end: Callable[[], None]

    async def run(self) -> None:
        """Look around until it is time to end. A round that fails is logged, and does not make it stay for ever."""
        ended = False
        while not ended:
            await asyncio.sleep(min(5.0, max(0.05, self.idle_timeout() / 10)))
            try:
                ended = await self.look()
            except Exception:
                logger.exception("housekeeping failed")

    async def look(self) -> bool:
        """One round; True once the process was told to end."""
        timeout = self.idle_timeout()
        if self.attendance.clients.absence() >= timeout:
            logger.info("no client for %.0f s; ending", timeout)
            self.end()
            return True
        self.tidy()
        for context in self.attendance.abandoned_contexts(timeout):
            self.attendance.forget_context(context)
            await self.drop_context(context)
        return False

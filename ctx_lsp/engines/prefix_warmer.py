"""When the prefix of a context is warmed: in the background, one at a time, and never while a question is answered.

Knows nothing of what warming is.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress

_REST_SECONDS = 0.3


class PrefixWarmer:
    """Warms what is wanted.

    Invariants: `_task` warms the first of `_wanted`, which stays wanted until it was warmed to its end; there is no
    task while anybody holds.
    """

    def __init__(self, warm: Callable[[str], Awaitable[None]], is_current: Callable[[str], Awaitable[bool]]) -> None:
        """`warm` is given a context and may be cancelled; `is_current` tells whether what it is at with a context is
        what that has now. Neither raises.
        """
        self._warm = warm
        self._is_current = is_current
        self._wanted: dict[str, None] = {}
        self._holds = 0
        self._task: asyncio.Task[None] | None = None
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._changes: set[asyncio.Task[None]] = set()

    def want_soon(self, context: str) -> None:
        """Its prefix may have changed, and may go on to change."""
        self._stop_timer(context)
        self._timers[context] = asyncio.get_running_loop().call_later(_REST_SECONDS, self._want_now, context)

    async def want(self, context: str) -> None:
        """Warms its prefix as it is now."""
        self._stop_timer(context)
        if context in self._wanted and self._task is not None:
            if await self._is_current(context):
                return
            await self._interrupt()
        self._wanted[context] = None
        self._go_on()

    async def forget(self, context: str) -> None:
        self._stop_timer(context)
        await self._interrupt()
        self._wanted.pop(context, None)
        self._go_on()

    @asynccontextmanager
    async def hold(self) -> AsyncIterator[None]:
        """Nothing is warmed inside; what was interrupted goes on behind it."""
        self._holds += 1
        try:
            await self._interrupt()
            yield
        finally:
            self._holds -= 1
            self._go_on()

    async def close(self) -> None:
        for context in list(self._timers):
            self._stop_timer(context)
        self._wanted.clear()
        await self._interrupt()

    def _want_now(self, context: str) -> None:
        task = asyncio.create_task(self.want(context))
        self._changes.add(task)
        task.add_done_callback(self._changes.discard)

    def _stop_timer(self, context: str) -> None:
        if (timer := self._timers.pop(context, None)) is not None:
            timer.cancel()

    def _go_on(self) -> None:
        if self._task is None and not self._holds and self._wanted:
            self._task = asyncio.create_task(self._run(next(iter(self._wanted))))

    async def _run(self, context: str) -> None:
        try:
            await self._warm(context)
            self._wanted.pop(context, None)
        finally:
            self._task = None
            self._go_on()

    async def _interrupt(self) -> None:
        self._holds += 1  # or the next one begins at once
        try:
            if self._task is not None:
                self._task.cancel()
                with suppress(asyncio.CancelledError):
                    await self._task
        finally:
            self._holds -= 1

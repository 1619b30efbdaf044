"""From any thread to one coroutine: a mailbox whose `put` never blocks.

Knows nothing of what it carries. Values under the same key replace each other, so a slow reader holds no more values
than there are keys.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Hashable
from contextlib import suppress
from typing import Generic, TypeVar

T = TypeVar("T")


class Mailbox(Generic[T]):
    """Values waiting for one reader on one event loop.

    Invariants: `_pending` and `_closed` change under the lock alone; whenever there is something to take, `_wake` is
    set or a callback that sets it is on its way.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._lock = threading.Lock()
        self._wake = asyncio.Event()
        self._pending: dict[Hashable, T] = {}
        self._closed = False

    def put(self, key: Hashable, value: T) -> None:
        """Leave a value, in place of an earlier one with the same key that was not taken yet. Any thread."""
        with self._lock:
            must_wake = not self._pending
            if not self._closed:
                self._pending[key] = value
        if must_wake:
            self._rouse()

    def close(self) -> None:
        """Nothing more will come; what is there can still be taken. Any thread, idempotent."""
        with self._lock:
            self._closed = True
        self._rouse()

    async def take(self) -> list[T]:
        """Wait for values and take all of them, oldest key first; an empty list means closed for good."""
        while True:
            await self._wake.wait()
            with self._lock:
                values = list(self._pending.values())
                self._pending.clear()
                if not self._closed:
                    self._wake.clear()
                if values or self._closed:
                    return values

    def _rouse(self) -> None:
        with suppress(RuntimeError):  # the loop has ended: nobody reads any more
            self._loop.call_soon_threadsafe(self._wake.set)

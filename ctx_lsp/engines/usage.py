"""How many use something now, and whether the caller is one of them. Knows nothing of what it is."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_used: ContextVar[Usage | None] = ContextVar("used", default=None)


class Usage:
    """A context manager for each user, and a wait for the moment without any.

    Invariant: `_unused` is set exactly while `_users` is 0.

    Attributes:
        total: how many there have been so far.
    """

    def __init__(self) -> None:
        self.total = 0
        self._users = 0
        self._unused = asyncio.Event()
        self._unused.set()

    @property
    def is_mine(self) -> bool:
        """Whether the caller, or who began its task, is a user."""
        return _used.get() is self

    @contextmanager
    def begun(self) -> Iterator[None]:
        token = _used.set(self)
        self.total += 1
        self._users += 1
        self._unused.clear()
        try:
            yield
        finally:
            _used.reset(token)
            self._users -= 1
            if self._users == 0:
                self._unused.set()

    async def ended(self) -> None:
        """Returns at a moment without users, which lasts until the next await."""
        while self._users:
            await self._unused.wait()

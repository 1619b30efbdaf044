"""How many use something now. Knows nothing of what it is."""

from __future__ import annotations

import asyncio
from types import TracebackType


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

    def __enter__(self) -> None:
        self.total += 1
        self._users += 1
        self._unused.clear()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._users -= 1
        if self._users == 0:
            self._unused.set()

    async def ended(self) -> None:
        """Returns at a moment without users, which lasts until the next await."""
        while self._users:
            await self._unused.wait()

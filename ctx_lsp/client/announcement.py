"""The latest value of something, told at a bearable rate. Knows nothing of what is told, or to whom."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class Announcement(Generic[T]):
    """Sends the latest value of something: at once after a pause, else when the pause is over."""

    def __init__(self, send: Callable[[T], None], quiet: float) -> None:
        self._send = send
        self._quiet = quiet
        self._waiting: list[T] = []
        self._timer: asyncio.TimerHandle | None = None

    def put(self, value: T) -> None:
        self._waiting = [value]
        if self._timer is None:
            self._flush()

    def stop(self) -> None:
        """Nothing is sent any more that still waits."""
        self._waiting.clear()
        if self._timer is not None:
            self._timer.cancel()

    def _flush(self) -> None:
        self._timer = None
        if self._waiting:
            self._send(self._waiting.pop())
            self._timer = asyncio.get_running_loop().call_later(self._quiet, self._flush)

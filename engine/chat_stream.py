"""ChatStream: the events of one answer, as an iterator that any thread may read, and any may cancel."""

from __future__ import annotations

import queue
from collections.abc import Callable, Iterator

from engine.errors import EngineError
from engine.types import ChatDone, ChatEvent


class ChatStream(Iterator[ChatEvent]):
    """Yields ChatDelta events and then one ChatDone, or raises the EngineError that ended the answer.

    Abandoning it does not stop the engine; `close` or `cancel` does.
    """

    def __init__(self, cancel: Callable[[ChatStream], None]) -> None:
        self._queue: queue.SimpleQueue[ChatEvent | EngineError] = queue.SimpleQueue()
        self._cancel = cancel
        self._ended = False

    def put(self, event: ChatEvent | EngineError) -> None:
        """Called by the engine only."""
        self._queue.put(event)

    def __next__(self) -> ChatEvent:
        if self._ended:
            raise StopIteration
        event = self._queue.get()
        if isinstance(event, EngineError):
            self._ended = True
            raise event
        self._ended = isinstance(event, ChatDone)
        return event

    def cancel(self) -> None:
        """Stop computing; the events so far are kept and ChatDone (`cancelled`) follows. No effect after the end."""
        self._cancel(self)

    def close(self) -> None:
        """Cancel, and drop all that was not read."""
        self.cancel()
        self._ended = True

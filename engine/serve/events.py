"""Engine events fanned out to event streams: engine threads put, streams take, nobody blocks the engine.

Knows event types and context ids; not how a stream is written to a socket.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from engine.serve.errors import TooManyRequestsError
from engine.serve.mailbox import Mailbox
from engine.types import EngineEvent


class EventStream:
    """One listener. Events of one kind and context replace each other until they are taken."""

    def __init__(self, context: str | None) -> None:
        self._context = context
        self._mailbox: Mailbox[EngineEvent] = Mailbox(asyncio.get_running_loop())

    def offer(self, event: EngineEvent) -> None:
        """Any thread; never blocks."""
        if self._context is None or event.context == self._context:
            self._mailbox.put((type(event), event.context), event)

    async def take(self) -> list[EngineEvent]:
        """Wait for events, oldest first; an empty list means that no more will come."""
        return await self._mailbox.take()

    def close(self) -> None:
        self._mailbox.close()


class EventHub:
    """All listeners. `_streams` is replaced, never changed, so that `publish` needs no lock."""

    def __init__(self, limit: int) -> None:
        """`limit`: most streams at once."""
        self._limit = limit
        self._lock = threading.Lock()
        self._streams: frozenset[EventStream] = frozenset()
        self._closed = False

    def __len__(self) -> int:
        return len(self._streams)

    def publish(self, event: EngineEvent) -> None:
        """Give an event to everybody whom it concerns. Any thread; never blocks."""
        for stream in self._streams:
            stream.offer(event)

    @contextmanager
    def listen(self, context: str | None) -> Iterator[EventStream]:
        """A stream of one context's events, or of all. Call on the event loop. Raises TooManyRequestsError."""
        stream = EventStream(context)
        with self._lock:
            if len(self._streams) >= self._limit:
                raise TooManyRequestsError(f"{self._limit} event streams are open already", limit=self._limit)
            self._streams |= {stream}
            if self._closed:
                stream.close()
        try:
            yield stream
        finally:
            with self._lock:
                self._streams -= {stream}

    def close(self) -> None:
        """End every stream, also those that are opened later."""
        with self._lock:
            self._closed = True
            streams = self._streams
        for stream in streams:
            stream.close()

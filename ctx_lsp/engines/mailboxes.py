"""Events of contexts that are kept in this process, to whoever listens. Knows nothing of what they say."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

from engine.types import EngineEvent

Mailbox = asyncio.Queue[EngineEvent]


class Mailboxes:
    """Every listener gets each event of its context from when it began to listen."""

    def __init__(self) -> None:
        self._open: dict[str, list[Mailbox]] = {}

    def publish(self, event: EngineEvent) -> None:
        for mailbox in self._open.get(event.context, ()):
            mailbox.put_nowait(event)

    @contextmanager
    def listen(self, context: str) -> Iterator[Mailbox]:
        mailbox = Mailbox()
        self._open.setdefault(context, []).append(mailbox)
        try:
            yield mailbox
        finally:
            self._open[context].remove(mailbox)

"""Running answers: blocking `ChatStream`s pumped into the event loop, one thread per running answer.

Knows events and cancelling; not the format they are sent in.
"""

from __future__ import annotations

import asyncio
import itertools
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import suppress
from typing import TYPE_CHECKING

import anyio.to_thread

from engine.errors import EngineBusyError, EngineError
from engine.serve.errors import TooManyRequestsError, as_engine_error
from engine.serve.mailbox import Mailbox
from engine.types import ChatDelta, ChatEvent

if TYPE_CHECKING:
    from engine.chat_stream import ChatStream

_STOPPING = "the engine is shutting down"


class Answer:
    """One running answer. It ends by itself, or by `cancel`; its thread ends with it.

    `launched` says whether it has a thread.
    """

    def __init__(self) -> None:
        self.launched = False
        self._mailbox: Mailbox[ChatEvent | EngineError] = Mailbox(asyncio.get_running_loop())
        self._lock = threading.Lock()
        self._stream: ChatStream | None = None
        self._cancelled = False
        self._error: EngineError | None = None

    def run(self, stream: ChatStream) -> None:
        """Pump the stream to its end; call on a thread that may block."""
        with self._lock:
            self._stream = stream
            cancelled = self._cancelled
        if cancelled:
            stream.cancel()
        order = itertools.count()
        try:
            for event in stream:
                self._mailbox.put(next(order), event)
        except BaseException as error:
            self._mailbox.put(next(order), as_engine_error(error))
        finally:
            with suppress(EngineError):
                stream.close()
            self._mailbox.close()

    def cancel(self, reason: EngineError | None = None) -> None:
        """Stop computing it; `reason`, if any, is what its reader gets. Any thread, idempotent."""
        with self._lock:
            self._cancelled = True
            self._error = self._error or reason
            stream = self._stream
        if stream is not None:
            stream.cancel()
        if reason is not None:
            self._mailbox.close()  # its reader need not wait until the engine has stopped

    async def events(self) -> AsyncIterator[ChatEvent]:
        """Its events; text that came while the reader was busy arrives in one piece. Raises EngineError."""
        while events := await self._mailbox.take():
            for event in _joined(events):
                if self._error is not None:
                    raise self._error
                if isinstance(event, EngineError):
                    raise event
                yield event
        if self._error is not None:
            raise self._error


class Answers:
    """All running answers of the process, at most `limit`."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._running: set[Answer] = set()
        self._stopped = False

    def __len__(self) -> int:
        return len(self._running)

    async def start(self, open_stream: Callable[[], ChatStream]) -> Answer:
        """Ask the engine and start to pump. Call on the event loop.

        Raises TooManyRequestsError, and whatever `open_stream` raises. If the caller is cancelled meanwhile, so is
        the answer.
        """
        if self._stopped:
            raise EngineBusyError(_STOPPING)
        if len(self._running) >= self._limit:
            raise TooManyRequestsError(f"{self._limit} answers are running already", limit=self._limit)
        answer = Answer()
        self._running.add(answer)
        try:
            await anyio.to_thread.run_sync(self._launch, answer, open_stream, asyncio.get_running_loop())
        except BaseException:
            answer.cancel()  # the caller may have been cancelled after the thread was launched
            if not answer.launched:
                self._running.discard(answer)
            raise
        return answer

    def stop_all(self) -> None:
        """Cancel every answer; their readers get an error."""
        self._stopped = True
        for answer in list(self._running):
            answer.cancel(EngineBusyError(_STOPPING))

    def _launch(self, answer: Answer, open_stream: Callable[[], ChatStream], loop: asyncio.AbstractEventLoop) -> None:
        def pump(stream: ChatStream) -> None:
            answer.run(stream)
            with suppress(RuntimeError):  # the loop has ended, and this set with it
                loop.call_soon_threadsafe(self._running.discard, answer)

        stream = open_stream()
        threading.Thread(target=pump, args=(stream,), name="ctx-engine-answer", daemon=True).start()
        answer.launched = True


def _joined(events: list[ChatEvent | EngineError]) -> Iterator[ChatEvent | EngineError]:
    """Neighboring pieces of one kind as one piece."""
    for kind, group in itertools.groupby(events, lambda event: event.kind if isinstance(event, ChatDelta) else None):
        if kind is None:
            yield from group
        else:
            yield ChatDelta("".join(event.text for event in group if isinstance(event, ChatDelta)), kind)

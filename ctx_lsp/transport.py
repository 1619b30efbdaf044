"""Messages over a pair of file descriptors: `Content-Length` framing, one thread that reads and one that writes.

The event loop is never blocked by a client that sends slowly or doesn't read, and an exit never waits for stdin.
Knows JSON and framing; knows nothing of JSON-RPC.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import queue
import threading
from collections.abc import Callable
from typing import Any, BinaryIO

logger = logging.getLogger(__name__)


class MessageWriter:
    """Writes byte strings in order, on its own thread. `write` never blocks; `close` lets what is queued go out."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._queue: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="lsp-writer", daemon=True)
        self._thread.start()

    def write(self, data: bytes) -> None:
        self._queue.put(data)

    def close(self, patience: float = 2.0) -> None:
        """Waits for the queue to empty, at most `patience` seconds: the client may have stopped reading."""
        self._queue.put(None)
        self._thread.join(patience)

    def _run(self) -> None:
        while (data := self._queue.get()) is not None:
            try:
                _write_all(self._descriptor, data)
            except OSError as error:
                logger.info("the client no longer reads: %s", error)
                return


class MessageReader:
    """Reads messages on its own thread and hands each to `on_message` on the event loop; `on_end` follows the last.

    `on_message` gets the parsed JSON, or the `ValueError` that parsing raised.
    """

    def __init__(self, descriptor: int, on_message: Callable[[Any], None], on_end: Callable[[], None]) -> None:
        self._stream = os.fdopen(descriptor, "rb", closefd=False)
        self._on_message = on_message
        self._on_end = on_end
        self._loop = asyncio.get_running_loop()

    def start(self) -> None:
        threading.Thread(target=self._run, name="lsp-reader", daemon=True).start()

    def _run(self) -> None:
        with contextlib.suppress(RuntimeError):  # the loop has ended before the client did
            with contextlib.suppress(OSError):
                while (body := read_body(self._stream)) is not None:
                    self._loop.call_soon_threadsafe(self._on_message, parse(body))
            self._loop.call_soon_threadsafe(self._on_end)


def read_body(stream: BinaryIO) -> bytes | None:
    """The next message's bytes; None at the end of the stream. Header lines that mean nothing are skipped."""
    length: int | None = None
    while line := stream.readline():
        if line.strip():
            length = _content_length(line, length)
        elif length is not None:
            body = stream.read(length)
            return body if len(body) == length else None
    return None


def frame(body: bytes) -> bytes:
    return b"Content-Length: %d\r\n\r\n%b" % (len(body), body)


def _content_length(line: bytes, known: int | None) -> int | None:
    name, _, value = line.partition(b":")
    digits = value.strip()
    return int(digits) if name.strip().lower() == b"content-length" and digits.isdigit() else known


def parse(body: bytes) -> Any:
    """The JSON value, or the ValueError that reading it raised."""
    try:
        return json.loads(body)
    except (ValueError, RecursionError) as error:
        return error if isinstance(error, ValueError) else ValueError("nested too deeply")


def _write_all(descriptor: int, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(descriptor, rest) :]

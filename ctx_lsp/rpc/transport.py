"""Messages over byte streams: `Content-Length` framing, one thread that reads and one that writes.

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
import socket
import threading
from collections.abc import Callable
from functools import partial
from typing import Any, BinaryIO, Protocol

logger = logging.getLogger(__name__)

MOST_BYTES = 256 * 1024 * 1024
"""Of one message."""

_MOST_LINE = 64 * 1024
_MOST_DIGITS = 20

OnMessage = Callable[[Any], None]
OnEnd = Callable[[], None]


class Channel(Protocol):
    """The way to one client and back."""

    def start(self, on_message: OnMessage, on_end: OnEnd) -> None:
        """Begins to read: `on_message` gets each message's JSON, or the ValueError that parsing raised, on the event
        loop; `on_end` follows the last.
        """
        ...

    def write(self, body: bytes) -> None:
        """Queues a message. Never blocks."""
        ...

    async def close(self) -> None:
        """Lets what is queued go out, for as long as the client reads, and hangs up."""
        ...


class StreamChannel:
    """A channel over a pair of byte streams."""

    def __init__(self, stream: BinaryIO, send: Callable[[bytes], None], hang_up: Callable[[], None]) -> None:
        self._stream = stream
        self._writer = MessageWriter(send)
        self._hang_up = hang_up

    def start(self, on_message: OnMessage, on_end: OnEnd) -> None:
        MessageReader(self._stream, on_message, on_end).start()

    def write(self, body: bytes) -> None:
        self._writer.write(frame(body))

    async def close(self) -> None:
        await asyncio.to_thread(self._writer.close)
        self._hang_up()


def over_pipes(stdin: int, stdout: int) -> StreamChannel:
    """Reading is left to itself at the end: nothing but its other side can end a pipe."""
    stream = os.fdopen(stdin, "rb", closefd=False)
    return StreamChannel(stream, partial(write_all, stdout), lambda: None)


def over_socket(connection: socket.socket) -> StreamChannel:
    """The stream keeps the socket's descriptor open until its last read has ended."""
    connection.setblocking(True)

    def hang_up() -> None:
        with contextlib.suppress(OSError):
            connection.shutdown(socket.SHUT_RDWR)
        connection.close()

    return StreamChannel(connection.makefile("rb"), connection.sendall, hang_up)


class MessageWriter:
    """Sends framed messages in order, on its own thread. `write` never blocks; `close` lets what is queued go out."""

    def __init__(self, send: Callable[[bytes], None]) -> None:
        self._send = send
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
                self._send(data)
            except OSError as error:
                logger.info("the client no longer reads: %s", error)
                return


class MessageReader:
    """Reads messages on its own thread, which closes the stream at its end."""

    def __init__(self, stream: BinaryIO, on_message: OnMessage, on_end: OnEnd) -> None:
        self._stream = stream
        self._on_message = on_message
        self._on_end = on_end
        self._loop = asyncio.get_running_loop()

    def start(self) -> None:
        threading.Thread(target=self._run, name="lsp-reader", daemon=True).start()

    def _run(self) -> None:
        with contextlib.suppress(RuntimeError), self._stream:  # the loop has ended before the client did
            with contextlib.suppress(OSError):
                while (body := read_body(self._stream)) is not None:
                    self._loop.call_soon_threadsafe(self._on_message, parse(body))
            self._loop.call_soon_threadsafe(self._on_end)


def read_body(stream: BinaryIO) -> bytes | None:
    """The next message's bytes; None at the end of the stream. Header lines that mean nothing are skipped.

    A message longer than `MOST_BYTES` is the end as well: what is behind its head can't be told from messages.
    """
    length: int | None = None
    while line := stream.readline(_MOST_LINE):
        if line.strip():
            length = _content_length(line, length)
        elif length is not None and length > MOST_BYTES:
            logger.error("the client announced a message of %d bytes; the most is %d", length, MOST_BYTES)
            return None
        elif length is not None:
            body = stream.read(length)
            return body if len(body) == length else None
    return None


def frame(body: bytes) -> bytes:
    return b"Content-Length: %d\r\n\r\n%b" % (len(body), body)


def _content_length(line: bytes, known: int | None) -> int | None:
    name, _, value = line.partition(b":")
    digits = value.strip()
    return int(digits[:_MOST_DIGITS]) if name.strip().lower() == b"content-length" and digits.isdigit() else known


def parse(body: bytes | str) -> Any:
    """The JSON value, or the ValueError that reading it raised."""
    try:
        return json.loads(body)
    except (ValueError, RecursionError) as error:
        return error if isinstance(error, ValueError) else ValueError("nested too deeply")


def write_all(descriptor: int, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(descriptor, rest) :]

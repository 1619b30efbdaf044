"""Messages of the Agent Client Protocol over a pair of file descriptors: one JSON object a line.

A `Transport` of the SDK's connection, on threads: a client that doesn't read must not block the event loop.
Knows JSON and lines; knows nothing of methods.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import threading
from functools import partial
from typing import Any

from ctx_lsp.rpc.transport import MessageWriter, parse, write_all

_PARSE_ERROR = -32700
_INVALID_REQUEST = -32600


class Lines:
    """What the client sends until it hangs up, or `end` is called."""

    def __init__(self, stdin: int, stdout: int) -> None:
        self._stdin = stdin
        self._writer = MessageWriter(partial(write_all, stdout))
        self._received: asyncio.Queue[bytes | None] = asyncio.Queue()
        self._loop = asyncio.get_running_loop()
        threading.Thread(target=self._read, name="acp-reader", daemon=True).start()

    async def send(self, message: dict[str, Any]) -> None:
        """Never waits: what the agent sends one after the other, with nothing in between, arrives in that order."""
        self._writer.write(json.dumps(message).encode() + b"\n")

    async def receive(self) -> dict[str, Any] | None:
        """The next message; None at the end. What is none is answered here."""
        while (line := await self._received.get()) is not None:
            message = parse(line) if line.strip() else None
            if isinstance(message, dict):
                return message
            if isinstance(message, ValueError):
                await self._refuse(_PARSE_ERROR, f"the line is not JSON: {message}")
            elif message is not None or line.strip():
                await self._refuse(_INVALID_REQUEST, "a message is a JSON object")
        return None

    async def close(self) -> None:
        await asyncio.to_thread(self._writer.close)

    def end(self) -> None:
        """As if the client had hung up."""
        self._received.put_nowait(None)

    async def _refuse(self, code: int, message: str) -> None:
        await self.send({"jsonrpc": "2.0", "id": None, "error": {"code": code, "message": message}})

    def _read(self) -> None:
        with contextlib.suppress(RuntimeError):  # the loop has ended before the client did
            with contextlib.suppress(OSError), os.fdopen(self._stdin, "rb", closefd=False) as stream:
                for line in stream:
                    self._loop.call_soon_threadsafe(self._received.put_nowait, line)
            self._loop.call_soon_threadsafe(self._received.put_nowait, None)

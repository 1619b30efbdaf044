"""Messages over WebSocket: one JSON text a message, to and from clients that run in a browser or beside one.

Knows the package `websockets`; knows nothing of JSON-RPC.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager

from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed
from websockets.typing import Origin

from ctx_lsp.rpc.transport import Channel, OnEnd, OnMessage, parse

_LARGEST_BYTES = 64 * 1024 * 1024
_PATIENCE_SECONDS = 2.0


class WebSocketChannel:
    """A channel over one connection, on the event loop.

    Invariant: `_queue` holds what was written and not sent, and at last None.
    """

    def __init__(self, connection: ServerConnection) -> None:
        self._connection = connection
        self._queue: asyncio.Queue[bytes | None] = asyncio.Queue()
        self._sending = asyncio.create_task(self._send())
        self._reading: asyncio.Task[None] | None = None

    def start(self, on_message: OnMessage, on_end: OnEnd) -> None:
        self._reading = asyncio.create_task(self._read(on_message, on_end))

    def write(self, body: bytes) -> None:
        self._queue.put_nowait(body)

    async def close(self) -> None:
        self.write_end()
        await asyncio.wait([self._sending], timeout=_PATIENCE_SECONDS)
        self._sending.cancel()
        await self._connection.close()
        if self._reading is not None:
            await self._reading

    def write_end(self) -> None:
        self._queue.put_nowait(None)

    async def _read(self, on_message: OnMessage, on_end: OnEnd) -> None:
        with contextlib.suppress(ConnectionClosed):
            async for message in self._connection:
                on_message(parse(message))
        on_end()

    async def _send(self) -> None:
        with contextlib.suppress(ConnectionClosed):
            while (body := await self._queue.get()) is not None:
                await self._connection.send(body, text=True)


@asynccontextmanager
async def listen(
    host: str, port: int, serve_client: Callable[[Channel], Awaitable[object]], origins: Sequence[str]
) -> AsyncIterator[int]:
    """Serves each client that connects, until the block is left; yields the port.

    Browsers say which page connects, and none may but those of `origins`; other programs say nothing.
    """

    async def handle(connection: ServerConnection) -> None:
        await serve_client(WebSocketChannel(connection))

    allowed = [None, *map(Origin, origins)]
    async with serve(handle, host, port, origins=allowed, compression=None, max_size=_LARGEST_BYTES) as server:
        yield next(iter(server.sockets)).getsockname()[1]

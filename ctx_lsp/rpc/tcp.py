"""Clients over TCP. Knows sockets; what a client says and is told is its channel's and its server's business."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from ctx_lsp.rpc.transport import Channel, over_socket


@asynccontextmanager
async def listen(host: str, port: int, serve_client: Callable[[Channel], Awaitable[object]]) -> AsyncIterator[int]:
    """Serves each client that connects, until the block is left, when all are hung up on; yields the port."""
    clients: dict[asyncio.Task[None], socket.socket] = {}

    async def serve(connection: socket.socket) -> None:
        await serve_client(over_socket(connection))

    async def accept(listener: socket.socket) -> None:
        while True:
            connection, _ = await asyncio.get_running_loop().sock_accept(listener)
            task = asyncio.create_task(serve(connection))
            clients[task] = connection
            task.add_done_callback(lambda task: clients.pop(task))

    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.create_server((host, port), family=family) as listener:
        listener.setblocking(False)
        accepting = asyncio.create_task(accept(listener))
        try:
            yield listener.getsockname()[1]
        finally:
            accepting.cancel()
            for connection in clients.values():
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RD)
            await asyncio.gather(accepting, *clients, return_exceptions=True)

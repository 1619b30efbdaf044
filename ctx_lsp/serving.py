"""The server as a process: one client over stdin and stdout, or all that come over TCP or WebSocket, to their end.

Knows beginnings and ends; which method is answered by what is `server`'s business.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from functools import partial
from ipaddress import ip_address
from typing import Literal

from ctx_lsp.rpc import tcp
from ctx_lsp.rpc.access_token import AccessToken
from ctx_lsp.rpc.transport import Channel, over_pipes
from ctx_lsp.server import Server

LOGIN_SECONDS = 30.0
"""How long whoever connects may take to say the token."""


@dataclass(frozen=True)
class Listening:
    """Where a server listens.

    Attributes:
        host: a loopback address.
        port: 0 takes any that is free.
        origins: of web pages that may connect over WebSocket.
    """

    transport: Literal["tcp", "ws"]
    host: str
    port: int
    origins: Sequence[str] = ()


def parse_address(text: str) -> tuple[str, int]:
    """`HOST:PORT`, on loopback. Raises ValueError with a message for people."""
    host, _, port = text.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    host = "127.0.0.1" if host in ("", "localhost") else host
    try:
        is_loopback = ip_address(host).is_loopback
        number = int(port)
    except ValueError:
        raise ValueError(f"{text!r} is not HOST:PORT, such as 127.0.0.1:4711") from None
    if not is_loopback:
        raise ValueError(f"{host} is not a loopback address; to reach it from elsewhere, use an SSH tunnel")
    if not 0 <= number <= 65535:
        raise ValueError(f"{number} is not a port")
    return host, number


def main_stdio() -> int:
    """Serves over stdin and stdout. Returns the exit status. What anything else prints goes to stderr."""
    stdin, stdout = os.dup(0), os.dup(1)
    os.dup2(2, 1)
    return asyncio.run(_serve_stdio(stdin, stdout))


def main_listening(place: Listening, token: AccessToken) -> int:
    """Listens until SIGTERM or SIGINT. Returns the exit status; raises OSError if the address can't be had."""
    return asyncio.run(_serve_listening(place, token))


async def serve_client(channel: Channel, server: Server) -> int:
    """Serves one client until it says exit or is gone; returns the exit status."""
    server.protocol.serve(channel)
    try:
        return await server.protocol.exit_status
    finally:
        await server.close()
        await channel.close()


async def _serve_stdio(stdin: int, stdout: int) -> int:
    server = Server(follows_parent=True)
    _on_signals(partial(server.protocol.end, 0))
    return await serve_client(over_pipes(stdin, stdout), server)


async def _serve_listening(place: Listening, token: AccessToken) -> int:
    stopped = asyncio.Event()
    _on_signals(stopped.set)

    async def serve_one(channel: Channel) -> None:
        server = Server(token)
        timer = asyncio.get_running_loop().call_later(LOGIN_SECONDS, server.end_stranger)
        await serve_client(channel, server)
        timer.cancel()

    async with _listen(place, serve_one) as port:
        host = f"[{place.host}]" if ":" in place.host else place.host
        print(f"ctx-lsp listens at {place.transport}://{host}:{port}; its token is in {token.place}", flush=True)
        await stopped.wait()
    return 0


def _listen(place: Listening, serve_one: Callable[[Channel], Awaitable[None]]) -> AbstractAsyncContextManager[int]:
    if place.transport == "tcp":
        return tcp.listen(place.host, place.port, serve_one)
    from ctx_lsp.rpc import websocket

    return websocket.listen(place.host, place.port, serve_one, place.origins)


def _on_signals(end: Callable[[], None]) -> None:
    loop = asyncio.get_running_loop()
    with contextlib.suppress(NotImplementedError):
        loop.add_signal_handler(signal.SIGTERM, end)
        loop.add_signal_handler(signal.SIGINT, end)

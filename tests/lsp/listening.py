"""A server process that listens, and clients that come to it over TCP and WebSocket.

Knows sockets and framing; knows nothing of what methods mean.
"""

from __future__ import annotations

import asyncio
import json
import re
import sys
from pathlib import Path
from typing import Any

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from tests.lsp.wire_client import PATIENCE, WireClient

_LINE = re.compile(r"ctx-lsp listens at (\w+)://(.+):(\d+); its token is in (.+)\n")


class ListeningServer:
    """`ctx-lsp serve --tcp` or `--ws`, and who is connected to it."""

    def __init__(self, process: asyncio.subprocess.Process, line: str) -> None:
        match = _LINE.fullmatch(line)
        assert match is not None, line
        self.process = process
        self.transport, self.host, port, self.token_place = match.groups()
        self.port = int(port)
        self._clients: list[WireClient] = []

    @classmethod
    async def start(cls, transport: str, *arguments: str, host: str = "127.0.0.1") -> ListeningServer:
        process = await start_serving(f"--{transport}", f"{host}:0", *arguments)
        assert process.stdout is not None
        async with asyncio.timeout(PATIENCE):
            return cls(process, (await process.stdout.readline()).decode())

    @property
    def token(self) -> str:
        return Path(self.token_place).read_text().strip()

    @property
    def url(self) -> str:
        return f"ws://{self.host}:{self.port}"

    async def connect(self) -> TcpClient | WebSocketClient:
        client: TcpClient | WebSocketClient
        if self.transport == "tcp":
            client = TcpClient(*await asyncio.open_connection(self.host.strip("[]"), self.port))
        else:
            client = WebSocketClient(await connect(self.url, proxy=None))
        self._clients.append(client)
        return client

    async def stop(self) -> int:
        """As a service manager does; returns the exit status."""
        if self.process.returncode is None:
            self.process.terminate()
        async with asyncio.timeout(PATIENCE):
            status = await self.process.wait()
        for client in self._clients:
            await client.close()
        return status


async def start_serving(*arguments: str) -> asyncio.subprocess.Process:
    pipe = asyncio.subprocess.PIPE
    return await asyncio.create_subprocess_exec(
        sys.executable, "-m", "ctx_lsp", "serve", *arguments, stdin=asyncio.subprocess.DEVNULL, stdout=pipe, stderr=pipe
    )


class TcpClient(WireClient):
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        super().__init__()
        self._reader = reader
        self._writer = writer
        self._reading = asyncio.create_task(self._read())

    def send_raw(self, body: bytes) -> None:
        self._writer.write(b"Content-Length: %d\r\n\r\n%b" % (len(body), body))

    async def close(self) -> None:
        self._writer.close()
        await self._reading

    async def _read(self) -> None:
        try:
            while True:
                head = await self._reader.readuntil(b"\r\n\r\n")
                length = int(head.split(b":")[1])
                self.take(json.loads(await self._reader.readexactly(length)))
        except (asyncio.IncompleteReadError, ConnectionError):
            self.take_end("hung up")


class WebSocketClient(WireClient):
    def __init__(self, connection: ClientConnection) -> None:
        super().__init__()
        self._connection = connection
        self._outbox: asyncio.Queue[bytes] = asyncio.Queue()
        self._tasks: list[asyncio.Task[Any]] = [asyncio.create_task(self._read()), asyncio.create_task(self._send())]

    def send_raw(self, body: bytes) -> None:
        self._outbox.put_nowait(body)

    async def close(self) -> None:
        await self._connection.close()
        self._tasks[1].cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _read(self) -> None:
        try:
            while True:
                message = await self._connection.recv()
                assert isinstance(message, str), "messages are text, for clients in a browser"
                self.take(json.loads(message))
        except ConnectionClosed:
            self.take_end("hung up")

    async def _send(self) -> None:
        while True:
            await self._connection.send(await self._outbox.get(), text=True)

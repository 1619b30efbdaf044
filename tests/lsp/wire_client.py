"""Clients that show the wire: raw JSON-RPC with a server, in a process or in this one, everything received kept.

Knows framing and ids; knows nothing of what methods mean.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Callable
from typing import Any

from ctx_lsp.rpc.transport import OnEnd, OnMessage, parse
from ctx_lsp.server import Server

PATIENCE = 60.0
FIRST_ID = 1
SERVER = (sys.executable, "-m", "ctx_lsp", "serve")
Message = dict[str, Any]


class RpcError(Exception):
    """The server answered with an error."""

    def __init__(self, error: Message) -> None:
        super().__init__(error["message"])
        self.code: int = error["code"]
        self.message: str = error["message"]
        self.data: Any = error.get("data")


class WireClient:
    """Requests, notifications and everything the server sent. `received` has all its messages, in order; `replies`
    answer its requests, by method, from their params, or raise an RpcError; `capabilities` are what it has offered.
    """

    def __init__(self) -> None:
        self.received: list[Message] = []
        self.capabilities: Message = {}
        self.replies: dict[str, Callable[[Any], Any]] = {}
        self._arrived = asyncio.Event()
        self._next_id = FIRST_ID - 1
        self._farewell: str | None = None

    def send_raw(self, body: bytes) -> None:
        """Sends the bytes of one message, framed."""
        raise NotImplementedError

    async def close(self) -> None:
        """Hangs up and waits for the server's end."""
        raise NotImplementedError

    # -- sending ---------------------------------------------------------------------------------------------------

    def send(self, message: Message) -> None:
        self.send_raw(json.dumps({"jsonrpc": "2.0", **message}).encode())

    def notify(self, method: str, params: Any) -> None:
        self.send({"method": method, "params": params})

    def post(self, method: str, params: Any) -> int:
        """Sends a request and returns its id."""
        self._next_id += 1
        self.send({"id": self._next_id, "method": method, "params": params})
        return self._next_id

    def cancel(self, msg_id: int) -> None:
        self.notify("$/cancelRequest", {"id": msg_id})

    # -- receiving -------------------------------------------------------------------------------------------------

    async def request(self, method: str, params: Any) -> Any:
        return await self.result(self.post(method, params))

    async def command(self, command: str, /, **argument: Any) -> Any:
        """A command's `data`."""
        params = {"command": command, "arguments": [argument]}
        return (await self.request("workspace/executeCommand", params))["data"]

    async def result(self, msg_id: int) -> Any:
        answer = await self.wait_for(lambda message: message.get("id") == msg_id and "method" not in message)
        if "error" in answer:
            raise RpcError(answer["error"])
        return answer["result"]

    async def wait_for(self, accepts: Callable[[Message], bool], start: int = 0) -> Message:
        """The first message from index `start` on that is accepted, come or yet to come."""
        async with asyncio.timeout(PATIENCE):
            while True:
                for message in self.received[start:]:
                    if accepts(message):
                        return message
                if self._farewell is not None:
                    raise EOFError(f"the server is gone: {self._farewell}")
                self._arrived.clear()
                await self._arrived.wait()

    async def wait_notification(self, method: str, accepts: Callable[[Any], bool] = lambda _: True) -> Any:
        message = await self.wait_for(lambda message: message.get("method") == method and accepts(message["params"]))
        return message["params"]

    def notifications(self, method: str) -> list[Any]:
        return [message["params"] for message in self.received if message.get("method") == method]

    def answers(self, msg_id: int) -> list[Message]:
        return [message for message in self.received if message.get("id") == msg_id and "method" not in message]

    # -- for those who read ----------------------------------------------------------------------------------------

    def take(self, message: Message) -> None:
        """A message has come. Requests of the server without a reply are answered with null."""
        self.received.append(message)
        if "method" in message and "id" in message:
            self.send({"id": message["id"], **self._reply(message)})
        self._arrived.set()

    def _reply(self, message: Message) -> Message:
        try:
            return {"result": self.replies.get(message["method"], lambda _: None)(message.get("params"))}
        except RpcError as error:
            return {"error": {"code": error.code, "message": error.message}}

    def take_end(self, farewell: str) -> None:
        self._farewell = farewell
        self._arrived.set()


class ProcessClient(WireClient):
    """A server in a process of its own, over its pipes."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        super().__init__()
        self.process = process
        self.stderr = ""
        self._may_read = asyncio.Event()
        self._may_read.set()
        self._tasks = [asyncio.create_task(self._read()), asyncio.create_task(self._read_stderr())]

    @classmethod
    async def start(cls) -> ProcessClient:
        pipe = asyncio.subprocess.PIPE
        return cls(await asyncio.create_subprocess_exec(*SERVER, stdin=pipe, stdout=pipe, stderr=pipe))

    def send_raw(self, body: bytes) -> None:
        self.send_bytes(b"Content-Length: %d\r\n\r\n%b" % (len(body), body))

    def send_bytes(self, data: bytes) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(data)

    def pause_reading(self) -> None:
        """Leaves what comes in the pipe. What was read ahead is still taken."""
        self._may_read.clear()

    def resume_reading(self) -> None:
        self._may_read.set()

    def hang_up(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()

    async def shut_down(self) -> int:
        """The polite end; returns the exit status. stdin stays open."""
        await self.request("shutdown", None)
        self.notify("exit", None)
        return await self.wait_exit()

    async def wait_exit(self) -> int:
        async with asyncio.timeout(PATIENCE):
            return await self.process.wait()

    async def close(self) -> None:
        if self.process.returncode is None:
            self.hang_up()
            await self.wait_exit()
        await asyncio.gather(*self._tasks)

    async def _read(self) -> None:
        assert self.process.stdout is not None
        try:
            while True:
                await self._may_read.wait()
                head = await self.process.stdout.readuntil(b"\r\n\r\n")
                length = int(head.split(b":")[1])
                self.take(json.loads(await self.process.stdout.readexactly(length)))
        except asyncio.IncompleteReadError:
            await self._tasks[1]
            self.take_end(self.stderr)

    async def _read_stderr(self) -> None:
        assert self.process.stderr is not None
        while data := await self.process.stderr.read(65536):
            self.stderr += data.decode(errors="replace")


class LocalClient(WireClient):
    """A server in this process: the same messages, without pipes. For tests that don't need a process's truth."""

    def __init__(self) -> None:
        super().__init__()
        self.server = Server()
        self._outlet = Outlet(self)
        self.server.protocol.serve(self._outlet)

    def send_raw(self, body: bytes) -> None:
        asyncio.get_running_loop().call_soon(self._outlet.on_message, parse(body))

    async def close(self) -> None:
        await self.server.close()


class Outlet:
    """The server's channel, which gives every message to a client."""

    def __init__(self, client: WireClient) -> None:
        self._client = client
        self.on_message: OnMessage = print

    def start(self, on_message: OnMessage, on_end: OnEnd) -> None:
        self.on_message = on_message

    def write(self, body: bytes) -> None:
        self._client.take(json.loads(body))

    async def close(self) -> None:
        pass

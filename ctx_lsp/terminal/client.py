"""A language client: starts a server process and speaks JSON-RPC with it over its stdin and stdout.

Plain dicts in and out. Knows how LSP frames, correlates and cancels messages; knows nothing of chats or terminals.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any

METHOD_NOT_FOUND = -32601
REQUEST_CANCELLED = -32800
CANCEL_PATIENCE = 5.0
SHUTDOWN_PATIENCE = 5.0

# What a client without windows answers to the requests a server may send; None is "nothing chosen" or "done".
_ANSWERS: dict[str, Callable[[Any], Any]] = {
    "window/workDoneProgress/create": lambda params: None,
    "client/registerCapability": lambda params: None,
    "client/unregisterCapability": lambda params: None,
    "window/showMessageRequest": lambda params: None,
    "window/showDocument": lambda params: {"success": False},
    "workspace/applyEdit": lambda params: {"applied": False},
    "workspace/configuration": lambda params: [None] * len(params.get("items", ())),
    "workspace/workspaceFolders": lambda params: None,
    "workspace/codeLens/refresh": lambda params: None,
    "workspace/inlayHint/refresh": lambda params: None,
}


class ServerError(Exception):
    """The server answered a request with an error.

    Attributes:
        code: the JSON-RPC code.
        data: what came with it, e.g. ``{"code": "context_full", …}``; empty where nothing did.
    """

    def __init__(self, code: int, message: str, data: Any = None) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.data: dict[str, Any] = data if isinstance(data, dict) else {}


class ServerGoneError(Exception):
    """The server process could not be started, or ended while something was still expected of it."""


class Client:
    """One server process and the requests under way with it.

    Invariant: every id in `_pending` belongs to a request that was sent and not yet answered. When the process ends,
    all of them fail with `ServerGoneError`, and so does every later request.
    """

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self._pending: dict[int, asyncio.Future[Any]] = {}
        self._next_id = 1
        self._handlers: dict[str, Callable[[Any], None]] = {}
        self._stderr: deque[str] = deque(maxlen=50)
        self._gone: ServerGoneError | None = None
        self._tasks = [asyncio.create_task(self._read()), asyncio.create_task(self._read_stderr())]

    @classmethod
    async def start(cls, command: Sequence[str], *, env: Mapping[str, str] | None = None) -> Client:
        """Start `command`. In a session of its own, so that Ctrl-C in the terminal reaches only the terminal."""
        pipe = asyncio.subprocess.PIPE
        try:
            process = await asyncio.create_subprocess_exec(
                *command, stdin=pipe, stdout=pipe, stderr=pipe, env=env, start_new_session=True
            )
        except OSError as error:
            raise ServerGoneError(f"cannot start the language server: {error}") from error
        return cls(process)

    @property
    def pid(self) -> int:
        return self._process.pid

    def on(self, method: str, handler: Callable[[Any], None]) -> None:
        """Call `handler` with the params of every notification of this method."""
        self._handlers[method] = handler

    async def request(self, method: str, params: Any) -> Any:
        """Send a request and wait for its result.

        A cancelled wait sends `$/cancelRequest` and still waits (for a moment) until the server has answered, so that
        nothing of the request is under way any more when CancelledError comes out.

        Raises:
            ServerError: the server refused.
            ServerGoneError: the server is not there any more.
        """
        if self._gone:
            raise self._gone
        identifier, self._next_id = self._next_id, self._next_id + 1
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._pending[identifier] = answer
        self._send({"id": identifier, "method": method, "params": params})
        try:
            return await asyncio.shield(answer)
        except asyncio.CancelledError:
            await self._cancel(identifier, answer)
            raise
        finally:
            self._pending.pop(identifier, None)

    def notify(self, method: str, params: Any) -> None:
        self._send({"method": method, "params": params})

    async def close(self) -> None:
        """End the server: politely (`shutdown`, `exit`), then less so. Never raises."""
        with contextlib.suppress(ServerError, ServerGoneError, TimeoutError):
            await asyncio.wait_for(self.request("shutdown", None), SHUTDOWN_PATIENCE)
            self.notify("exit", None)
        for end in (self._close_stdin, self._process.terminate, self._process.kill):
            with contextlib.suppress(ProcessLookupError, OSError):
                end()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._process.wait(), SHUTDOWN_PATIENCE)
                break
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _close_stdin(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()

    def _send(self, message: dict[str, Any]) -> None:
        assert self._process.stdin is not None
        body = json.dumps({"jsonrpc": "2.0", **message}, ensure_ascii=False).encode()
        with contextlib.suppress(OSError, RuntimeError):  # a closed pipe: the reader notices the end and tells everyone
            self._process.stdin.write(b"Content-Length: %d\r\n\r\n" % len(body) + body)

    async def _cancel(self, identifier: int, answer: asyncio.Future[Any]) -> None:
        if not answer.done():
            self.notify("$/cancelRequest", {"id": identifier})
            await asyncio.wait([answer], timeout=CANCEL_PATIENCE)
        if answer.done() and not answer.cancelled():
            answer.exception()  # marks it as seen

    async def _read(self) -> None:
        assert self._process.stdout is not None
        try:
            while (message := await _read_message(self._process.stdout)) is not None:
                self._receive(message)
            reason = None
        except asyncio.IncompleteReadError:
            reason = None  # it died in the middle of a message
        except Exception as error:  # whatever it is, nobody may wait for ever
            reason = f"the language server sent something that is not understood: {error!r}"
        await self._end(reason)

    async def _end(self, reason: str | None) -> None:
        await asyncio.wait([self._tasks[1]], timeout=1)  # its last words
        last = next((line for line in reversed(self._stderr) if line.strip()), "")
        reason = reason or "the language server has ended" + (f": {last.strip()}" if last else "")
        self._gone = ServerGoneError(reason)
        for answer in self._pending.values():
            if not answer.done():
                answer.set_exception(self._gone)

    def _receive(self, message: dict[str, Any]) -> None:
        if "method" not in message:
            self._receive_answer(message)
        elif "id" in message:
            self._answer(message)
        elif handler := self._handlers.get(message["method"]):
            handler(message.get("params"))

    def _receive_answer(self, message: dict[str, Any]) -> None:
        answer = self._pending.get(message["id"])
        if answer is None or answer.done():
            return
        if error := message.get("error"):
            answer.set_exception(ServerError(error["code"], error["message"], error.get("data")))
        else:
            answer.set_result(message.get("result"))

    def _answer(self, message: dict[str, Any]) -> None:
        if make := _ANSWERS.get(message["method"]):
            self._send({"id": message["id"], "result": make(message.get("params") or {})})
        else:
            error = {"code": METHOD_NOT_FOUND, "message": f"not known here: {message['method']}"}
            self._send({"id": message["id"], "error": error})

    async def _read_stderr(self) -> None:
        assert self._process.stderr is not None
        while chunk := await self._process.stderr.read(1 << 16):
            self._stderr.extend(chunk.decode(errors="replace").splitlines())


async def _read_message(stream: asyncio.StreamReader) -> dict[str, Any] | None:
    """The next message, or None at the end of the stream. Raises ValueError on what is no header or no JSON."""
    length = None
    while line := await stream.readline():
        if line == b"\r\n":
            break
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length":
            length = int(value)
    if not line:
        return None
    if length is None:
        raise ValueError("a message without Content-Length")
    message: dict[str, Any] = json.loads(await stream.readexactly(length))
    return message

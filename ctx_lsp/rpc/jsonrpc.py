"""How JSON-RPC messages become handler calls and answers: the one subclass of pygls' protocol.

Replaces pygls' dispatch, which leaves commands running after a cancellation, leaves malformed custom requests without
an answer, keeps a future per notification, and runs handlers on the thread that reads stdin. Knows which type a
method's params have; knows nothing of what handlers do.
"""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import json
import logging
import time
from collections.abc import Callable, Generator
from enum import Enum
from functools import partial
from typing import Any

from cattrs import Converter, transform_error
from lsprotocol import types
from pygls.exceptions import (
    JsonRpcException,
    JsonRpcInvalidParams,
    JsonRpcInvalidRequest,
    JsonRpcMethodNotFound,
    JsonRpcParseError,
    JsonRpcRequestCancelled,
    JsonRpcServerNotInitialized,
)
from pygls.protocol import LanguageServerProtocol, default_converter, lsp_method

from ctx_lsp import protocol, wire
from ctx_lsp.capabilities import tailor
from ctx_lsp.client import logs
from ctx_lsp.client.progress import WORK_DONE_TOKEN
from ctx_lsp.rpc.tracing import Tracer
from ctx_lsp.rpc.transport import Channel
from engine.errors import EngineError

logger = logging.getLogger(__name__)

MessageId = int | str
_REPLACED_BUILTINS = (
    types.TEXT_DOCUMENT_DID_OPEN,
    types.TEXT_DOCUMENT_DID_CHANGE,
    types.TEXT_DOCUMENT_DID_CLOSE,
    types.NOTEBOOK_DOCUMENT_DID_OPEN,
    types.NOTEBOOK_DOCUMENT_DID_CHANGE,
    types.NOTEBOOK_DOCUMENT_DID_CLOSE,
    types.WINDOW_WORK_DONE_PROGRESS_CANCEL,
)


class Phase(Enum):
    """Where a session stands between its first message and its last."""

    CREATED = "created"
    INITIALIZING = "initializing"
    RUNNING = "running"
    SHUT_DOWN = "shut down"


def make_converter() -> Converter:
    """pygls' converter for LSP's own types, which also writes this project's."""
    converter: Converter = default_converter()  # type: ignore[no-untyped-call]
    converter.register_unstructure_hook_func(wire.is_wire_type, wire.to_json)
    return converter


class Protocol(LanguageServerProtocol):
    """Runs every message as one asyncio task.

    Invariants: `_running` holds exactly the requests that were received and not yet answered; every request is answered
    once, when its task ends, however it ends; tasks take their first step in the order in which messages came.
    """

    def __init__(self, server: Any, converter: Converter) -> None:
        self.phase = Phase.CREATED
        self.exit_status: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._channel: Channel | None = None
        self._running: dict[MessageId, asyncio.Task[Any]] = {}
        self._notified: set[asyncio.Task[Any]] = set()
        self._tracer = Tracer(partial(self.notify, types.LOG_TRACE))
        self._context = contextvars.copy_context()
        self._context.run(logs.speak, logs.Voice(self._tell))
        super().__init__(server, converter)  # looks at every attribute, properties included
        for method in _REPLACED_BUILTINS:
            self.fm.builtin_features.pop(method, None)

    @property
    def requests_running(self) -> int:
        return len(self._running)

    def serve(self, channel: Channel) -> None:
        """Answers what comes over the channel. `exit_status` is done when nothing more comes, or exit was said."""
        self._channel = channel
        channel.start(self.handle_message, lambda: self.end(0 if self.phase is Phase.SHUT_DOWN else 1))

    # -- messages from the client ----------------------------------------------------------------------------------

    def handle_message(self, message: Any) -> None:
        """Takes one parsed message, or the ValueError its parsing raised."""
        self._context.run(self._handle_message, message)

    def _handle_message(self, message: Any) -> None:
        if isinstance(message, ValueError):
            return self._send_error(None, JsonRpcParseError(f"not JSON: {message}"))
        if not isinstance(message, dict) or message.get("jsonrpc") != "2.0":
            return self._refuse(message, 'expected one object with "jsonrpc": "2.0"')
        method, msg_id = message.get("method"), message.get("id")
        if not isinstance(method, str):
            return self._on_response(message) if "id" in message else self._refuse(message, "no method")
        if "id" not in message:
            return self._on_notification(method, message.get("params"))
        if isinstance(msg_id, bool) or not isinstance(msg_id, int | str):
            return self._refuse({}, "id must be an integer or a string")
        self._on_request(msg_id, method, message.get("params"))

    def _on_request(self, msg_id: MessageId, method: str, params: Any) -> None:
        if msg_id in self._running:
            return self._send_error(msg_id, JsonRpcInvalidRequest(f"a request with id {msg_id!r} is still running"))
        try:
            self._check_phase(method)
            handler = self._get_handler(method)
            argument = self._read_params(method, params)
        except Exception as error:
            return self._send_error(msg_id, error)
        self._enter_phase(method)
        self._tracer(f"{method} ({msg_id}) came", params)
        started = time.monotonic()
        context = contextvars.copy_context()
        context.run(self._ctx_msg_id.set, msg_id)
        task = asyncio.get_running_loop().create_task(_run(handler, (argument,)), context=context)
        self._running[msg_id] = task
        task.add_done_callback(partial(self._answer, msg_id, method, started))

    def _on_notification(self, method: str, params: Any) -> None:
        if method == types.CANCEL_REQUEST:
            return self._cancel(params)
        if self.phase is not Phase.RUNNING and method not in (types.EXIT, types.INITIALIZED):
            return logger.info("ignoring %s: the session is %s", method, self.phase.value)
        try:
            handler = self._get_handler(method)
            argument = self._read_params(method, params)
        except JsonRpcMethodNotFound:
            return logger.debug("ignoring unknown notification %s", method)
        except Exception as error:
            return logger.error("ignoring malformed %s: %s", method, error)
        if method == types.SET_TRACE:
            self._tracer.level = argument.value  # now, for the next message
            return
        self._tracer(f"{method} came", params)
        task = asyncio.get_running_loop().create_task(_run(handler, (argument,)))
        self._notified.add(task)
        task.add_done_callback(partial(self._after_notification, method))

    def _on_response(self, message: dict[str, Any]) -> None:
        msg_id = message["id"]
        self._result_types.pop(msg_id, None)
        future = self._request_futures.pop(msg_id, None)
        if future is None or not future.set_running_or_notify_cancel():
            return
        error = message.get("error")
        if isinstance(error, dict):
            future.set_exception(JsonRpcException(str(error.get("message")), error.get("code"), error.get("data")))
        else:
            future.set_result(message.get("result"))

    def _cancel(self, params: Any) -> None:
        task = self._running.get(params["id"]) if isinstance(params, dict) and "id" in params else None
        if task is not None:
            task.cancel()

    def _refuse(self, message: Any, reason: str) -> None:
        msg_id = message.get("id") if isinstance(message, dict) else None
        self._send_error(msg_id if isinstance(msg_id, int | str) else None, JsonRpcInvalidRequest(reason))

    # -- reading params --------------------------------------------------------------------------------------------

    def _read_params(self, method: str, params: Any) -> Any:
        if (custom := protocol.METHODS.get(method)) is not None:
            return wire.from_json({} if params is None else params, custom.params)
        if method == types.WORKSPACE_EXECUTE_COMMAND:
            return _execute_command_params(params)
        cls: Any = types.METHOD_TO_TYPES.get(method, (None, None, None, None))[2]
        if cls is None or (params is None and method == types.INITIALIZED):
            return params
        try:
            return self._converter.structure(params, cls)
        except Exception as error:
            raise JsonRpcInvalidParams("; ".join(transform_error(error, path="params"))) from None

    # -- phases ----------------------------------------------------------------------------------------------------

    def _check_phase(self, method: str) -> None:
        if self.phase is Phase.SHUT_DOWN:
            raise JsonRpcInvalidRequest("the server was shut down")
        if method == types.INITIALIZE and self.phase is not Phase.CREATED:
            raise JsonRpcInvalidRequest("the server was initialized already")
        if method != types.INITIALIZE and self.phase is not Phase.RUNNING:
            raise JsonRpcServerNotInitialized("send initialize first")

    def _enter_phase(self, method: str) -> None:
        if method == types.INITIALIZE:
            self.phase = Phase.INITIALIZING
        elif method == types.SHUTDOWN:
            self.phase = Phase.SHUT_DOWN
            self._shutdown = True

    @lsp_method(types.INITIALIZE)
    def lsp_initialize(self, params: types.InitializeParams) -> Generator[Any, Any, types.InitializeResult]:
        try:
            result = yield from super().lsp_initialize(params)
        except BaseException:
            self.phase = Phase.CREATED
            raise
        tailor(result.capabilities, params.capabilities)
        self._tracer.level = params.trace or types.TraceValue.Off
        self.phase = Phase.RUNNING
        return result

    @lsp_method(types.SHUTDOWN)
    def lsp_shutdown(self, *args: Any) -> Generator[Any, Any, None]:
        for msg_id, task in list(self._running.items()):
            if msg_id != self.msg_id:
                task.cancel()
        if (handler := self.fm.features.get(types.SHUTDOWN)) is not None:
            yield handler, args, None

    @lsp_method(types.EXIT)
    def lsp_exit(self, *args: Any) -> None:  # type: ignore[override]
        """Without the exits of pygls: the server's main coroutine ends, cleans up and returns the status."""
        self.end(0 if self.phase is Phase.SHUT_DOWN else 1)

    def end(self, status: int) -> None:
        """Lets whoever awaits `exit_status` go on; the first status wins."""
        if not self.exit_status.done():
            self.exit_status.set_result(status)

    @lsp_method(types.WORKSPACE_EXECUTE_COMMAND)
    def lsp_workspace__execute_command(self, params: types.ExecuteCommandParams) -> Generator[Any, Any, Any]:
        """Reads the command's one object argument by its type in `protocol.METHODS`; missing fields take defaults."""
        handler = self.fm.commands.get(params.command)
        if handler is None:
            known = ", ".join(sorted(self.fm.commands))
            raise JsonRpcInvalidParams(f"there is no command {params.command!r}; the commands are {known}")
        arguments = params.arguments or ()
        if len(arguments) > 1:
            raise JsonRpcInvalidParams(f"{params.command} takes one object, got {len(arguments)} arguments")
        value = arguments[0] if arguments and arguments[0] is not None else {}
        argument = wire.from_json(value, protocol.METHODS[params.command].params)
        WORK_DONE_TOKEN.set(params.work_done_token)
        return (yield handler, (argument,), None)

    # -- answers to the client -------------------------------------------------------------------------------------

    def _answer(self, msg_id: MessageId, method: str, started: float, task: asyncio.Task[Any]) -> None:
        del self._running[msg_id]
        self._tracer(f"{method} ({msg_id}) {_outcome(task)} after {(time.monotonic() - started) * 1000:.0f} ms")
        if task.cancelled():
            return self._send_error(msg_id, JsonRpcRequestCancelled(f"{method} was cancelled"))
        if (error := task.exception()) is not None:
            return self._send_error(msg_id, error)
        result = task.result()
        result_type = None if wire.is_wire_type(type(result)) else self.get_result_type(method)
        body = {"jsonrpc": "2.0", "id": msg_id, "result": result}
        try:
            self._send_data(result_type(id=msg_id, result=result) if result_type else body)
        except Exception as failure:
            self._send_error(msg_id, failure)

    def _send_error(self, msg_id: MessageId | None, error: BaseException) -> None:
        code, message, data = error_fields(error)
        body: dict[str, Any] = {"code": code, "message": message}
        if data is not None and _is_json(data):
            body["data"] = data
        self._send_data({"jsonrpc": "2.0", "id": msg_id, "error": body})

    def _after_notification(self, method: str, task: asyncio.Task[Any]) -> None:
        self._notified.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.error("%s failed", method, exc_info=error)

    def _send_data(self, data: Any) -> None:
        """Serializes and queues a message. Raises TypeError or ValueError if it can't be written as JSON."""
        body = json.dumps(data, default=self._serialize_message).encode()
        if self._channel is not None:
            self._channel.write(body)

    def _tell(self, kind: types.MessageType, message: str) -> None:
        """Before `initialize` came, a client must not be sent anything."""
        if self.phase is not Phase.CREATED:
            self.notify(types.WINDOW_LOG_MESSAGE, types.LogMessageParams(kind, message))

    async def cancel_all(self) -> None:
        """Cancels whatever still runs and waits for its end."""
        tasks = [*self._running.values(), *self._notified]
        current = asyncio.current_task()
        others = [task for task in tasks if task is not current]
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)


async def _run(handler: Callable[..., Any], args: tuple[Any, ...]) -> Any:
    """Runs any kind of handler to its end within the current task, so that cancelling the task cancels all of it.

    pygls' built-in handlers are generators that yield `(handler, args, kwargs)` of what is to run before they go on.
    """
    result: Any = handler(*args)
    if not inspect.isgenerator(result):
        return await result if inspect.isawaitable(result) else result
    steps: Generator[Any, Any, Any] = result
    value: Any = None
    while True:
        try:
            inner, inner_args, _ = steps.send(value)
        except StopIteration as stop:
            return stop.value
        value = await _run(inner, tuple(inner_args or ()))


def error_fields(error: BaseException) -> tuple[int, str, Any]:
    """Code, message and data of the JSON-RPC error that tells a client of an exception."""
    if isinstance(error, JsonRpcException):
        return error.code, error.message, error.data
    if isinstance(error, wire.WireError):
        return protocol.INVALID_PARAMS, str(error), {"code": "invalid_params", "problems": list(error.problems)}
    if isinstance(error, EngineError):
        return protocol.REQUEST_FAILED, error.message, {**error.data, "code": error.code}
    logger.error("a handler failed", exc_info=error)
    return -32603, f"internal error: {type(error).__name__}: {error}", {"code": "internal_error"}


def _outcome(task: asyncio.Task[Any]) -> str:
    if task.cancelled():
        return "was cancelled"
    return "failed" if task.exception() is not None else "was answered"


def _is_json(data: Any) -> bool:
    try:
        json.dumps(data)
    except (TypeError, ValueError):
        return False
    return True


def _execute_command_params(params: Any) -> types.ExecuteCommandParams:
    """pygls' converter would turn a number into a command's name and a string into a list of arguments."""
    if not isinstance(params, dict) or not isinstance(params.get("command"), str):
        raise JsonRpcInvalidParams("command: expected a string")
    arguments = params.get("arguments")
    if arguments is not None and not isinstance(arguments, list):
        raise JsonRpcInvalidParams("arguments: expected an array")
    token = params.get("workDoneToken")
    if token is not None and (isinstance(token, bool) or not isinstance(token, int | str)):
        raise JsonRpcInvalidParams("workDoneToken: expected an integer or a string")
    return types.ExecuteCommandParams(command=params["command"], arguments=arguments, work_done_token=token)

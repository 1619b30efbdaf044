"""An `EngineClient` for ctx-engine: its HTTP API as async methods with typed values and typed errors.

Knows docs/http-api.md; knows nothing of LSP, of processes, or of when an engine should be started.
"""

from __future__ import annotations

import json
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import fields
from typing import Any, TypeVar
from urllib.parse import quote

import httpx

from ctx_lsp import wire
from ctx_lsp.engines.client import AnswerEnd, AnswerPiece, EngineLostError, Health, Promptness, RemoteEngineError, Turn
from ctx_lsp.engines.events import SseEvent, read_events
from ctx_lsp.protocol import ChunkInfo, ChunkPlan, ChunksResult, DeltaKind, EngineStats, Order, Plan, Timing, Usage
from engine.errors import EngineBusyError, EngineError
from engine.types import ChunksChanged, EngineEvent, Message, PopulateFailed, PopulateProgress

logger = logging.getLogger(__name__)

T = TypeVar("T")

_CONNECT_SECONDS = 5.0
_DELTA_FIELDS: dict[str, DeltaKind] = {"reasoning_content": "reasoning", "content": "answer"}
_HEARTBEAT_SECONDS = 60.0  # of silence on the event stream; the engine sends a comment every 15
_EVENTS: dict[str, type[EngineEvent]] = {
    "chunks_changed": ChunksChanged,
    "populate_progress": PopulateProgress,
    "populate_failed": PopulateFailed,
}


class CtxEngineClient:
    """Requests to one engine: EngineLostError when it is gone, RemoteEngineError when it refuses.

    Cancelling a call closes its connection, which makes the engine stop that work.
    """

    def __init__(self, url: str, token: str) -> None:
        timeout = httpx.Timeout(None, connect=_CONNECT_SECONDS)
        headers = {"Authorization": f"Bearer {token}"}
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=8)
        self._http = httpx.AsyncClient(base_url=url, headers=headers, timeout=timeout, limits=limits, trust_env=False)

    async def close(self) -> None:
        await self._http.aclose()

    async def health(self) -> Health:
        body = await self._call("GET", "/health")
        return Health(**{field.name: body.get(field.name) for field in fields(Health)})

    async def stats(self) -> EngineStats | None:
        return _read(await self._call("GET", "/v1/stats"), EngineStats)

    # -- contexts --------------------------------------------------------------------------------------------------

    async def create_context(self, context: str, instructions: str | None, order: Order) -> ChunksResult:
        body = {"order": order} | ({} if instructions is None else {"instructions": instructions})
        return _read(await self._call("PUT", _path(context), body), ChunksResult)

    async def describe_context(self, context: str) -> ChunksResult:
        return _read(await self._call("GET", _path(context)), ChunksResult)

    async def drop_context(self, context: str) -> None:
        await self._call("DELETE", _path(context))

    async def add_chunk(self, context: str, text: str, source: str, **fields: Any) -> ChunkInfo:
        """`fields`: kind, tags, active; what is left out takes the engine's default."""
        body = {"text": text, "source": source, **fields}
        return _read(await self._call("POST", _path(context, "chunks"), body), ChunkInfo)

    async def chunk_text(self, context: str, hash: str) -> str:
        return str((await self._call("GET", _path(context, f"chunks/{hash}")))["text"])

    async def remove_source(self, context: str, source: str) -> None:
        await self._call("POST", _path(context, "remove_source"), {"source": source})

    async def set_active(self, context: str, refs: Sequence[str], active: bool) -> tuple[ChunkInfo, ...]:
        return await self._change(context, "activate" if active else "deactivate", refs)

    async def set_pinned(self, context: str, refs: Sequence[str], pinned: bool) -> tuple[ChunkInfo, ...]:
        return await self._change(context, "pin" if pinned else "unpin", refs)

    async def _change(self, context: str, action: str, refs: Sequence[str]) -> tuple[ChunkInfo, ...]:
        body = await self._call("POST", _path(context, action), {"refs": list(refs)})
        return tuple(_read(chunk, ChunkInfo) for chunk in body["chunks"])

    async def compose(self, context: str, refs: Sequence[str], name: str) -> ChunkInfo:
        return _read(await self._call("POST", _path(context, "compose"), {"refs": list(refs), "name": name}), ChunkInfo)

    async def move(self, context: str, ref: str, position: int) -> None:
        await self._call("POST", _path(context, "move"), {"ref": ref, "position": position})

    async def tag(self, context: str, ref: str, tags: Sequence[str], *, remove: bool = False) -> ChunkInfo:
        action = "untag" if remove else "tag"
        return _read(await self._call("POST", _path(context, action), {"ref": ref, "tags": list(tags)}), ChunkInfo)

    async def delete(self, context: str, refs: Sequence[str]) -> tuple[str, ...]:
        body = await self._call("POST", _path(context, "delete"), {"refs": list(refs)})
        return tuple(body["deleted"])

    async def clear(self, context: str, scope: str) -> None:
        await self._call("POST", _path(context, "clear"), {"scope": scope})

    async def populate(self, context: str, refs: Sequence[str] | None = None) -> Plan:
        body = {} if refs is None else {"refs": list(refs)}
        return _read(await self._call("POST", _path(context, "populate"), body), Plan)

    async def stop_populating(self, context: str) -> None:
        await self._call("POST", _path(context, "stop_populating"), {})

    async def prompt(self, context: str, messages: Sequence[Message], promptness: Promptness) -> str:
        body = {"messages": list(messages), **promptness.fields()}
        return str((await self._call("POST", _path(context, "prompt"), body))["text"])

    async def plan(self, context: str, messages: Sequence[Message], promptness: Promptness) -> Plan:
        body = {"messages": list(messages), **promptness.fields()}
        return _read(await self._call("POST", _path(context, "plan"), body), Plan)

    # -- streams ---------------------------------------------------------------------------------------------------

    async def chat(self, context: str, turn: Turn) -> AsyncGenerator[AnswerPiece | AnswerEnd, None]:
        """What is generated piece by piece, then one AnswerEnd."""
        body = {
            "messages": list(turn.messages),
            "stream": True,
            "context": context,
            **turn.promptness.fields(),
            **turn.sampling,
        }
        async with self._stream("POST", "/v1/chat/completions", body) as response:
            async for event in read_events(response.aiter_bytes()):
                if event.data == "[DONE]":
                    return
                for item in _answer_items(json.loads(event.data)):
                    yield item
        raise EngineLostError("the engine broke off in the middle of the answer")

    @asynccontextmanager
    async def events(self, context: str) -> AsyncIterator[AsyncIterator[EngineEvent]]:
        silence = httpx.Timeout(_HEARTBEAT_SECONDS, connect=_CONNECT_SECONDS)
        async with self._stream("GET", "/v1/events", params={"context": context}, timeout=silence) as response:
            yield _typed(read_events(response.aiter_bytes()), context)

    # -- transport -------------------------------------------------------------------------------------------------

    async def _call(self, method: str, path: str, body: Any = None) -> Any:
        with self._typed_errors():
            response = await self._http.request(method, path, **_content(body))
            _raise_for_error(response)
            return response.json()

    @asynccontextmanager
    async def _stream(self, method: str, path: str, body: Any = None, **options: Any) -> AsyncIterator[httpx.Response]:
        with self._typed_errors():
            async with self._http.stream(method, path, **_content(body), **options) as response:
                if response.status_code != 200:
                    await response.aread()
                    _raise_for_error(response)
                yield response

    @contextmanager
    def _typed_errors(self) -> Iterator[None]:
        if self._http.is_closed:
            raise EngineLostError("the connection to the engine was closed")
        try:
            yield
        except httpx.TransportError as error:
            raise EngineLostError(f"lost the connection to the engine: {error or type(error).__name__}") from error
        except (ValueError, KeyError, TypeError) as error:
            message = f"the engine sent what this version does not understand: {error}"
            raise RemoteEngineError("engine_incompatible", message) from error


def _path(context: str, action: str = "") -> str:
    return f"/v1/contexts/{quote(context, safe='')}" + (f"/{action}" if action else "")


def _content(body: Any) -> dict[str, Any]:
    """JSON in ASCII: a text with half a surrogate pair, which editors can send, has no UTF-8 form."""
    if body is None:
        return {}
    return {"content": json.dumps(body).encode(), "headers": {"Content-Type": "application/json"}}


def _read(body: Any, cls: type[T]) -> T:
    return wire.from_engine(body, cls)


def _raise_for_error(response: httpx.Response) -> None:
    if response.status_code < 400:
        return
    try:
        body = response.json()
    except ValueError:
        body = None
    raise _remote_error(body, f"the engine answered with status {response.status_code}")


def _remote_error(body: Any, fallback: str) -> EngineError:
    error = body.get("error") if isinstance(body, dict) else None
    if not isinstance(error, dict):
        return RemoteEngineError("engine_error", fallback)
    data = error.get("data")
    code, message = error.get("code") or "engine_error", error.get("message") or fallback
    if code == EngineBusyError.code:
        return EngineLostError(str(message))
    return RemoteEngineError(str(code), str(message), data if isinstance(data, dict) else None)


async def _typed(events: AsyncIterator[SseEvent], context: str) -> AsyncIterator[EngineEvent]:
    """Those of the names that this version knows, without the fields that it doesn't."""
    async for event in events:
        if (cls := _EVENTS.get(event.name)) is None:
            continue
        try:
            body = {"context": context} | json.loads(event.data)
            yield cls(**{field.name: body[field.name] for field in fields(cls) if field.name in body})
        except (ValueError, TypeError):
            logger.exception("an event of the engine could not be understood: %s", event)


def _answer_items(chunk: dict[str, Any]) -> list[AnswerPiece | AnswerEnd]:
    """What one chunk of OpenAI's stream says."""
    if "error" in chunk:
        raise _remote_error(chunk, "the engine failed")
    items: list[AnswerPiece | AnswerEnd] = []
    for choice in chunk.get("choices", ()):
        delta = choice.get("delta", {})
        items += [AnswerPiece(delta[name], kind) for name, kind in _DELTA_FIELDS.items() if delta.get(name)]
    if "ctx" in chunk:
        items.append(_answer_end(chunk["ctx"]))
    return items


def _answer_end(ctx: dict[str, Any]) -> AnswerEnd:
    return AnswerEnd(
        stop_reason=ctx["stop_reason"],
        usage=_read(ctx["usage"], Usage),
        timing=_read(ctx["timing"], Timing),
        chunks=tuple(_read(chunk, ChunkPlan) for chunk in ctx["chunks"]),
        output=ctx["output"],
    )

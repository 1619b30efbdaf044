"""Server-sent events on the wire: how one is written, and a response that ends as soon as its client is gone.

Knows nothing of what the events mean.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Coroutine
from typing import Any, TypeVar

from fastapi import Request
from fastapi.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from engine.serve.errors import ClientGoneError

T = TypeVar("T")
DONE = "data: [DONE]\n\n"


def message(data: Any, event: str | None = None) -> str:
    """One event whose data is JSON, which never contains a raw line break."""
    name = f"event: {event}\n" if event else ""
    return f"{name}data: {json.dumps(data, ensure_ascii=False, allow_nan=False)}\n\n"


def comment(text: str) -> str:
    """A line that readers skip; keeps the connection visibly alive."""
    return f": {text}\n\n"


class EventResponse(StreamingResponse):
    """A stream of events that watches its client, also while there is nothing to send."""

    def __init__(self, content: AsyncIterator[str]) -> None:
        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        super().__init__(content, media_type="text/event-stream", headers=headers)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await _first(self.stream_response(send), _disconnected(receive))


async def unless_gone(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """The result of `work`, which is cancelled if the client disconnects first (ClientGoneError).

    The request's body must have been read.
    """
    gone, result = await _first(_disconnected(request.receive), work)
    if gone or result is None:
        raise ClientGoneError("the client is gone")
    return result


async def _first(one: Coroutine[Any, Any, Any], other: Coroutine[Any, Any, T]) -> tuple[Any, T | None]:
    """Run both until either ends, then cancel the rest. Raises what either raised."""
    tasks = (asyncio.ensure_future(one), asyncio.ensure_future(other))
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        results = [task.result() if task.done() else None for task in tasks]
        return results[0], results[1]
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _disconnected(receive: Receive) -> bool:
    while (await receive())["type"] != "http.disconnect":
        pass
    return True

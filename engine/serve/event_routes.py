"""GET /v1/events: a context's changes as server-sent events. An open stream is a client that is there.

Works while the model loads, so that a client can listen first and create its context then, missing nothing.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from dataclasses import asdict
from typing import Annotated

from fastapi import APIRouter, Query, Request, Response

from engine.serve import sse
from engine.serve.events import EventStream
from engine.serve.guard import resources
from engine.serve.services import ServicesDep, Settings
from engine.types import EngineEvent

router = APIRouter()


@router.get("/v1/events")
async def events(
    request: Request, services: ServicesDep, context: Annotated[str | None, Query(min_length=1, max_length=200)] = None
) -> Response:
    held = resources(request)
    stream = held.enter_context(services.hub.listen(context))
    if context is not None:
        held.enter_context(services.attendance.use_context(context))
    return sse.EventResponse(_messages(stream, services.settings))


async def _messages(stream: EventStream, settings: Settings) -> AsyncIterator[str]:
    yield sse.comment("listening")
    while True:
        try:
            async with asyncio.timeout(settings.heartbeat):
                arrived = await stream.take()
        except TimeoutError:
            yield sse.comment("heartbeat")
            continue
        if not arrived:
            return
        for event in arrived:
            yield sse.message(asdict(event), event=_name(event))
        await asyncio.sleep(settings.event_interval)  # what comes meanwhile is coalesced


def _name(event: EngineEvent) -> str:
    """ChunksChanged as chunks_changed."""
    return re.sub(r"(?<!^)(?=[A-Z])", "_", type(event).__name__).lower()

"""POST /v1/chat/completions and GET /v1/models: the OpenAI side of the engine, streamed or whole.

Until the first event an error is an HTTP error; after it, the last event of the stream. A client that disconnects
ends its answer in either case.
"""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse

from engine.errors import EngineError
from engine.serve import openai_format, sse
from engine.serve.answers import Answer
from engine.serve.errors import as_engine_error, error_body, unknown_model
from engine.serve.guard import resources
from engine.serve.openai_format import Envelope
from engine.serve.schemas import ChatRequest
from engine.serve.services import Services, ServicesDep
from engine.types import ChatDelta, ChatDone, ChatEvent

if TYPE_CHECKING:
    from engine.chat_stream import ChatStream
    from engine.engine import Engine

logger = logging.getLogger(__name__)
router = APIRouter()
_started = int(time.time())


@router.get("/v1/models")
def list_models(services: ServicesDep) -> dict[str, Any]:
    return openai_format.models(services.host.engine().model_name, _started)


@router.post("/v1/chat/completions")
async def chat_completions(request: Request, body: ChatRequest, services: ServicesDep) -> Response:
    if body.context is not None:
        resources(request).enter_context(services.attendance.use_context(body.context))
    envelope = Envelope(_served_model(services, body.model))
    _log_ignored(body)
    if not body.stream:
        done = await sse.unless_gone(request, _whole(request, services, body))
        return JSONResponse(envelope.completion(done))
    events = (await _begin(request, services, body)).events()
    first = await sse.unless_gone(request, _next(events))
    include_usage = body.stream_options is not None and body.stream_options.include_usage
    return sse.EventResponse(_chunks(envelope, first, events, include_usage))


async def _begin(request: Request, services: Services, body: ChatRequest) -> Answer:
    """Start the answer; it is cancelled when the request ends, which does nothing to one that is complete."""
    engine = services.host.engine()
    answer = await services.answers.start(lambda: _open(engine, body))
    resources(request).callback(answer.cancel)
    return answer


def _open(engine: Engine, body: ChatRequest) -> ChatStream:
    fidelity = body.fidelity or "auto"
    if body.context is None:
        return engine.chat(body.conversation(), body.sampling(), fidelity=fidelity)
    context, tags = engine.get_context(body.context), tuple(body.tags or ())
    return context.chat(body.conversation(), body.sampling(), fidelity=fidelity, budget=body.budget(), tags=tags)


async def _whole(request: Request, services: Services, body: ChatRequest) -> ChatDone:
    answer = await _begin(request, services, body)
    async for event in answer.events():
        if isinstance(event, ChatDone):
            return event
    raise openai_format.no_answer()


async def _next(events: AsyncIterator[ChatEvent]) -> ChatEvent:
    async for event in events:
        return event
    raise openai_format.no_answer()


async def _chunks(
    envelope: Envelope, first: ChatEvent, rest: AsyncIterator[ChatEvent], include_usage: bool
) -> AsyncIterator[str]:
    """The answer as server-sent events, whatever happens ended by [DONE]."""
    yield sse.message(envelope.opening())
    try:
        event: ChatEvent | None = first
        while isinstance(event, ChatDelta):
            yield sse.message(envelope.delta(event))
            event = await anext(rest, None)
        if event is None:
            raise openai_format.no_answer()
        for chunk in envelope.closing(event, include_usage=include_usage):
            yield sse.message(chunk)
    except Exception as error:
        yield sse.message(error_body(_logged(as_engine_error(error))))
    yield sse.DONE


def _served_model(services: Services, asked: str | None) -> str:
    """The name of the engine's model. Raises ModelNotFoundError if another one was asked for."""
    engine = services.host.engine()
    if asked in (None, "", "default", engine.model_name, engine.config.model):
        return engine.model_name
    raise unknown_model(str(asked), engine.model_name)


def _logged(error: EngineError) -> EngineError:
    logger.warning("an answer ended early: %s: %s", error.code, error.message)
    return error


def _log_ignored(body: ChatRequest) -> None:
    if ignored := body.ignored():
        logger.debug("ignored fields of a chat request: %s", ", ".join(ignored))

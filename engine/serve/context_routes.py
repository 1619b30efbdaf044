"""Contexts and their chunks over HTTP: each route is one call of the facade.

Routes are plain functions, which the framework runs on threads: tokenizing a large file must not hold up the event
loop. Knows no rules about chunks; the facade has them.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import anyio.to_thread
from fastapi import APIRouter, Depends

from engine.serve import schemas
from engine.serve.services import ContextId, ServicesDep, UsedContextId
from engine.types import ChunkInfo, ChunkKind

if TYPE_CHECKING:
    from engine.context import Context

router = APIRouter(prefix="/v1/contexts/{id}")
Json = dict[str, Any]


def get_context(services: ServicesDep, context: UsedContextId) -> Context:
    """The existing context of the path. Raises UnknownContextError."""
    return services.host.engine().get_context(context)


ContextDep = Annotated[Any, Depends(get_context)]


def _listing(chunks: list[ChunkInfo]) -> Json:
    return {"chunks": [asdict(chunk) for chunk in chunks]}


def _description(context: Context, limit: int) -> Json:
    chunks = context.chunks()
    return {"id": context.id, **_listing(chunks), "active_tokens": _active_tokens(chunks), "limit": limit}


def _active_tokens(chunks: list[ChunkInfo]) -> int:
    """Tokens of the chunks the prompt shows: a composition's parts, and each but once."""
    tokens = {chunk.hash: chunk.tokens for chunk in chunks}
    shown = {hash for chunk in chunks if chunk.active for hash in chunk.parts or (chunk.hash,)}
    return sum(tokens[hash] for hash in shown)


@router.put("")
def create_context(services: ServicesDep, context: UsedContextId, body: schemas.ContextBody | None = None) -> Json:
    engine = services.host.engine()
    body = body or schemas.ContextBody()
    created = engine.context(context, instructions=body.instructions, order=body.order)
    return _description(created, engine.max_context)


@router.get("")
def describe_context(services: ServicesDep, context: ContextDep) -> Json:
    return _description(context, services.host.engine().max_context)


@router.delete("")
async def drop_context(services: ServicesDep, context: ContextId) -> Json:
    await anyio.to_thread.run_sync(services.host.engine().drop_context, context)
    services.attendance.forget_context(context)
    return {}


@router.post("/chunks")
def add_chunk(context: ContextDep, body: schemas.ChunkBody) -> Json:
    kind = ChunkKind(body.kind)
    info = context.add_chunk(body.text, source=body.source, kind=kind, tags=tuple(body.tags), active=body.active)
    return asdict(info)


@router.get("/chunks")
def list_chunks(context: ContextDep) -> Json:
    return _listing(context.chunks())


@router.get("/chunks/{ref:path}")
def show_chunk(context: ContextDep, ref: str) -> Json:
    return asdict(context.chunk(ref)) | {"text": context.text(ref)}


@router.post("/activate")
def activate(context: ContextDep, body: schemas.RefsBody) -> Json:
    return _listing(context.activate(*body.refs))


@router.post("/deactivate")
def deactivate(context: ContextDep, body: schemas.RefsBody) -> Json:
    return _listing(context.deactivate(*body.refs))


@router.post("/pin")
def pin(context: ContextDep, body: schemas.RefsBody) -> Json:
    return _listing(context.pin(*body.refs))


@router.post("/unpin")
def unpin(context: ContextDep, body: schemas.RefsBody) -> Json:
    return _listing(context.unpin(*body.refs))


@router.post("/delete")
def delete(context: ContextDep, body: schemas.RefsBody) -> Json:
    return {"deleted": list(context.delete(*body.refs))}


@router.post("/move")
def move(context: ContextDep, body: schemas.MoveBody) -> Json:
    return _listing(context.move(body.ref, body.position))


@router.post("/compose")
def compose(context: ContextDep, body: schemas.ComposeBody) -> Json:
    return asdict(context.compose(body.refs, body.name))


@router.post("/tag")
def tag(context: ContextDep, body: schemas.TagBody) -> Json:
    return asdict(context.tag(body.ref, *body.tags))


@router.post("/untag")
def untag(context: ContextDep, body: schemas.TagBody) -> Json:
    return asdict(context.untag(body.ref, *body.tags))


@router.post("/remove_source")
def remove_source(context: ContextDep, body: schemas.SourceBody) -> Json:
    context.remove_source(body.source)
    return {}


@router.post("/clear")
def clear(context: ContextDep, body: schemas.ClearBody | None = None) -> Json:
    context.clear(body.scope if body else "all")
    return {}


@router.post("/populate")
def populate(context: ContextDep, body: schemas.OptionalRefsBody | None = None) -> Json:
    return asdict(context.populate(body.refs if body else None))


@router.post("/stop_populating")
def stop_populating(context: ContextDep) -> Json:
    context.stop_populating()
    return {}


@router.post("/plan")
def plan(context: ContextDep, body: schemas.PlanBody) -> Json:
    return asdict(context.plan(body.conversation(), fidelity=body.fidelity, budget=body.budget()))


@router.post("/prompt")
def prompt(context: ContextDep, body: schemas.PlanBody) -> Json:
    return {"text": context.prompt(body.conversation(), fidelity=body.fidelity, budget=body.budget())}

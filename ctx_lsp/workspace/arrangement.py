"""Puts the chunks of a context into an order and a state that are wanted, as far as the chunks are there.

Knows an engine's chunks; knows nothing of where texts come from or why this is wanted.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Protocol, TypeVar

from ctx_lsp.engines.client import EngineClient
from ctx_lsp.protocol import ChunkInfo
from engine.errors import EngineError

logger = logging.getLogger(__name__)

COMPOSITION = "composition"


class Wanted(Protocol):
    """What is wanted of a chunk; `parts` are hashes of other wanted ones. `ChunkInfo` is one."""

    @property
    def hash(self) -> str: ...
    @property
    def kind(self) -> str: ...
    @property
    def sources(self) -> Sequence[str]: ...
    @property
    def tags(self) -> Sequence[str]: ...
    @property
    def parts(self) -> Sequence[str]: ...
    @property
    def active(self) -> bool: ...
    @property
    def pinned(self) -> bool: ...


class Counted(Protocol):
    """A chunk whose tokens count wherever the prompt shows it."""

    @property
    def hash(self) -> str: ...
    @property
    def parts(self) -> Sequence[str]: ...
    @property
    def active(self) -> bool: ...
    @property
    def tokens(self) -> int: ...


C = TypeVar("C", bound=Counted)


def shown(chunks: Sequence[C]) -> list[C]:
    """What the prompt shows of them: the active ones, compositions as their parts, each once."""
    by_hash = {chunk.hash: chunk for chunk in chunks}
    hashes = dict.fromkeys(hash for chunk in chunks if chunk.active for hash in chunk.parts or (chunk.hash,))
    return [by_hash[hash] for hash in hashes if hash in by_hash]


async def arrange(client: EngineClient, context: str, wanted: Sequence[Wanted]) -> None:
    """Composes what is wanted as a composition, then gives all their tags, activity, pins and places.

    A wanted chunk is what its sources name now, whatever text that has, else what has its hash. Chunks that are not
    wanted are left out of the prompt, and stand behind the others.
    """
    await _compose(client, context, wanted)
    chunks = (await client.describe_context(context)).chunks
    places: dict[str, Wanted] = {}
    for want in wanted:
        places |= {chunk.hash: want for chunk in _meant(want, chunks) if chunk.hash not in places}
    await _tag(client, context, places, chunks)
    for state in (False, True):
        switched = [chunk.hash for chunk in chunks if chunk.active != state == _is_active(places, chunk)]
        if switched:
            await client.set_active(context, switched, state)
        pinned = [chunk.hash for chunk in chunks if chunk.pinned != state == _is_pinned(places, chunk)]
        if pinned:
            await client.set_pinned(context, pinned, state)
    await _order(client, context, list(places), [chunk.hash for chunk in chunks])


async def _compose(client: EngineClient, context: str, wanted: Sequence[Wanted]) -> None:
    chunks = (await client.describe_context(context)).chunks
    now = {want.hash: [chunk.hash for chunk in _meant(want, chunks)] for want in wanted}
    for want in wanted:
        if want.kind != COMPOSITION:
            continue
        parts = [hash for part in want.parts for hash in now.get(part, ())]
        try:
            for name in want.sources:
                await client.compose(context, parts, name)
        except EngineError as error:
            logger.warning("the composition %s is lost: %s", ", ".join(want.sources), error.message)


async def _tag(client: EngineClient, context: str, places: Mapping[str, Wanted], chunks: Sequence[ChunkInfo]) -> None:
    for chunk in chunks:
        if chunk.hash not in places or tuple(places[chunk.hash].tags) == chunk.tags:
            continue
        if chunk.tags:
            await client.tag(context, chunk.hash, chunk.tags, remove=True)
        if places[chunk.hash].tags:
            await client.tag(context, chunk.hash, places[chunk.hash].tags)


def _is_active(places: Mapping[str, Wanted], chunk: ChunkInfo) -> bool:
    return chunk.hash in places and places[chunk.hash].active


def _is_pinned(places: Mapping[str, Wanted], chunk: ChunkInfo) -> bool:
    return places[chunk.hash].pinned if chunk.hash in places else chunk.pinned


async def _order(client: EngineClient, context: str, wanted: Sequence[str], there: list[str]) -> None:
    """Moves as few chunks as follow from going through the places in their order."""
    for place, hash in enumerate(wanted):
        if there[place] != hash:
            await client.move(context, hash, place)
            there.remove(hash)
            there.insert(place, hash)


def _meant(want: Wanted, chunks: Sequence[ChunkInfo]) -> list[ChunkInfo]:
    by_source = [chunk for chunk in chunks if not set(want.sources).isdisjoint(chunk.sources)]
    return by_source or [chunk for chunk in chunks if chunk.hash == want.hash]

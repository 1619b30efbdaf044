"""Chunk: a piece of text with its SHA-256, and what its context knows of it."""

from __future__ import annotations

from dataclasses import dataclass, field

from engine.hashing import TokenArray, content_hash
from engine.types import ChunkKind


@dataclass(frozen=True, eq=False)
class Chunk:
    """One chunk of one context. Frozen: a change makes another one.

    Attributes:
        text: what it holds; a composition's is the text of its parts as the prompt shows them.
        tokens: its piece of the prompt, frame included, int32 [n]; empty for a composition, whose parts have their own.
        sources: where the text comes from; an answer's is its turn, a composition's are its names.
        parts: hashes of a composition's parts in order.
        generated: the token ids an answer was generated as, without the end of turn.
        pinned: it keeps its place in the order when it is edited.
    """

    text: str
    kind: ChunkKind
    tokens: TokenArray
    sources: tuple[str, ...]
    tags: tuple[str, ...] = ()
    parts: tuple[str, ...] = ()
    active: bool = True
    generated: tuple[int, ...] = ()
    pinned: bool = False
    hash: str = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "hash", content_hash(self.text))

    @property
    def name(self) -> str:
        return self.sources[0] if self.sources else self.hash[:8]

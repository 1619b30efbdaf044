"""ChunkKV: where a chunk's KV was last, as spans of segments, and which of them fit the chunk as it is now.

What a context remembers of its chunks' KV between questions. Knows segments by key only, so it keeps nothing alive.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from engine.hashing import TokenArray


@dataclass(frozen=True)
class Span:
    """`length` tokens of the segment `key`, from its token `offset` on."""

    key: bytes
    offset: int
    length: int


@dataclass(frozen=True)
class Match:
    """Tokens [first, first + span.length) of a chunk are those of `span`."""

    first: int
    span: Span


@dataclass(frozen=True, eq=False)
class ChunkKV:
    """A chunk's `tokens`, int32 [n], when its KV was last used, and the spans that held it, end to end."""

    tokens: TokenArray
    spans: tuple[Span, ...]

    def matches(self, tokens: TokenArray) -> Iterator[Match]:
        """The spans' parts that fit `tokens`, in order: what an edit has left alone before and behind it."""
        for first, old, length in _common(self.tokens, tokens):
            position = 0
            for span in self.spans:
                begin, end = max(old, position), min(old + length, position + span.length)
                if begin < end:
                    yield Match(first + begin - old, Span(span.key, span.offset + begin - position, end - begin))
                position += span.length


def _common(old: TokenArray, new: TokenArray) -> Iterator[tuple[int, int, int]]:
    """Common beginning and end as (first in new, first in old, length); a single one if they are the same."""
    shorter = min(len(old), len(new))
    head = _leading(old[:shorter] == new[:shorter])
    if head:
        yield 0, 0, head
    rest = shorter - head
    tail = _leading((old[len(old) - rest :] == new[len(new) - rest :])[::-1])
    if tail:
        yield len(new) - tail, len(old) - tail, tail


def _leading(same: np.ndarray[tuple[int], np.dtype[np.bool_]]) -> int:
    """How many leading values are true."""
    differs = np.flatnonzero(~same)
    return int(differs[0]) if len(differs) else len(same)

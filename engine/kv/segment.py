"""Segment: a run of tokens, the blocks its KV lies in, and the prefix under which it was computed."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from engine.hashing import TokenArray, extend_hash


class Segment:
    """KV of consecutive tokens.

    Attributes:
        prefix_hash: hash of everything its KV was computed under.
        tokens: all its token ids, computed or not, int32 [n].
        start: global position of its first token when it was computed; its keys are rotated for it.
        blocks: block i holds tokens i·block_size …; all but the last are full once computed.
        filled: tokens whose KV is there; only ever grows.
        seen: identities of the pieces that stood before it when it was computed (see `Piece.identity`).
        read: for pieces that stood before it the share of attention that each token paid to them, float16 [n].
        state: what a model with a recurrent state carries behind the last filled token; None for all others.
        pins: users that need it to stay: prefills under way and running answers.
        last_used: the store's clock when it was last pinned.
        key: hash of the prefix and of its tokens.

    Invariants: filled ≤ len(tokens); blocks hold at least `filled` tokens; KV once filled is never written again.
    """

    __slots__ = (
        "blocks",
        "filled",
        "key",
        "last_used",
        "pins",
        "prefix_hash",
        "read",
        "seen",
        "start",
        "state",
        "tokens",
    )

    def __init__(
        self,
        prefix_hash: bytes,
        tokens: TokenArray,
        start: int,
        blocks: list[int],
        filled: int,
        seen: frozenset[str] = frozenset(),
    ) -> None:
        self.prefix_hash = prefix_hash
        self.tokens = tokens
        self.start = start
        self.blocks = blocks
        self.filled = filled
        self.seen = seen
        self.read: dict[str, NDArray[np.float16]] = {}
        self.state: object | None = None
        self.pins = 0
        self.last_used = 0
        self.key = extend_hash(prefix_hash, tokens)

    @property
    def complete(self) -> bool:
        return self.filled == len(self.tokens)

    def note_read(self, pieces: Sequence[str], read: NDArray[np.float16]) -> None:
        """The tokens behind the filled ones paid these shares, float16 [pieces, count], to the pieces before them."""
        for piece, shares in zip(pieces, read, strict=True):
            whole = self.read.setdefault(piece, np.zeros(len(self.tokens), dtype=np.float16))
            whole[self.filled : self.filled + len(shares)] = shares

    def slots(self, first: int, count: int, block_size: int) -> list[int]:
        """Pool slots of tokens `first` to `first + count`."""
        return [self.blocks[i // block_size] * block_size + i % block_size for i in range(first, first + count)]

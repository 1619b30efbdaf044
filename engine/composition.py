"""Composition: head + active chunks + tail as pieces of tokens, each with the prefix hash and position it has here.

What the model sees, said in tokens. Knows nothing of KV: whether a piece is there is the segment store's business.
"""

from __future__ import annotations

from dataclasses import dataclass

from engine.hashing import TokenArray, extend_hash


@dataclass(frozen=True, eq=False)
class Piece:
    """Tokens that were encoded together.

    Attributes:
        tokens: int32 [n].
        start: global position of the first one.
        prefix_hash: hash of everything before it, as a cold run would compute it.
        key: the same with its own tokens: the exact segment's key.
        chunk: content hash of the chunk it holds, or None.
    """

    tokens: TokenArray
    start: int
    prefix_hash: bytes
    key: bytes
    chunk: str | None

    @property
    def identity(self) -> str:
        """What it is, wherever it stands: its chunk's hash, or for head and tail a hash of all up to its end."""
        return self.chunk or self.key.hex()


@dataclass(frozen=True, eq=False)
class Composition:
    """Pieces in prompt order, behind `base_hash` (the model's fingerprint). Positions close up."""

    base_hash: bytes
    pieces: tuple[Piece, ...] = ()

    @property
    def tokens(self) -> int:
        return self.pieces[-1].start + len(self.pieces[-1].tokens) if self.pieces else 0

    @property
    def key(self) -> bytes:
        """Hash of the whole."""
        return self.pieces[-1].key if self.pieces else self.base_hash

    def then(self, tokens: TokenArray, chunk: str | None = None) -> Composition:
        """This composition with one more piece; an empty one changes nothing."""
        if not len(tokens):
            return self
        piece = Piece(tokens, self.tokens, self.key, extend_hash(self.key, tokens), chunk)
        return Composition(self.base_hash, (*self.pieces, piece))

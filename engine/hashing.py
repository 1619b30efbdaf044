"""The two hashes everything is keyed by: of a chunk's text, and of a run of tokens under its prefix."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

TokenArray = NDArray[np.int32]


def content_hash(text: str) -> str:
    """SHA-256 of the text's UTF-8 bytes, as 64 hex digits; lone surrogates are hashed as they are."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def token_array(tokens: Sequence[int] | TokenArray) -> TokenArray:
    """Token ids as a read-only int32 array."""
    array = np.array(tokens, dtype=np.int32)
    array.setflags(write=False)
    return array


def extend_hash(prefix_hash: bytes, tokens: TokenArray) -> bytes:
    """hᵢ = SHA-256(hᵢ₋₁ ‖ token ids of piece i)."""
    return hashlib.sha256(prefix_hash + tokens.tobytes()).digest()


def taint_hash(prefix_hash: bytes, key: bytes, offset: int, length: int) -> bytes:
    """Prefix hash behind `length` tokens of the segment `key`, from `offset` on, which were *not* computed under
    `prefix_hash`: no exact composition ever has it.

    Deterministic, so that an answer over the same near KV finds what an earlier one computed on top of it.
    """
    return hashlib.sha256(b"near" + prefix_hash + key + offset.to_bytes(4) + length.to_bytes(4)).digest()

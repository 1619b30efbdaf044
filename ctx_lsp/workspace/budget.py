"""Which chunks may be active at once, so that the context always leaves room for a question and its answer.

A pure function of claims and room; knows nothing of engines, documents or how a chunk became whose it is.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from ctx_lsp.protocol import Origin

_MOST_RESERVED = 1024


@dataclass(frozen=True)
class Claim:
    """A chunk that wants to be active.

    Attributes:
        key: its hash.
        leaves: tokens by hash of the texts that the prompt shows for it: its own, or its parts'.
        origin: the user's own chunks come before automatic ones.
        rank: of two chunks of the same origin, the one with the higher rank comes first.
    """

    key: str
    leaves: Mapping[str, int]
    origin: Origin
    rank: tuple[float, ...]


@dataclass(frozen=True)
class Fit:
    """What may be active, and for each of the others why not."""

    active: frozenset[str]
    left_out: Mapping[str, str]


def reserved_tokens(limit: int) -> int:
    """Kept free of chunks, for the question and its answer."""
    return min(_MOST_RESERVED, limit // 8)


def fit(claims: Iterable[Claim], limit: int) -> Fit:
    """Gives room by origin and rank. A chunk is left out only if it doesn't fit beside those that come before it.

    A text that several chunks show takes room once.
    """
    room = limit - reserved_tokens(limit)
    shown: dict[str, int] = {}
    active: set[str] = set()
    left_out: dict[str, str] = {}
    taken = 0
    for claim in sorted(claims, key=_precedence):
        needed = sum(tokens for leaf, tokens in claim.leaves.items() if leaf not in shown)
        if taken + needed <= room:
            shown |= claim.leaves
            taken += needed
            active.add(claim.key)
        else:
            left_out[claim.key] = (
                f"no room for its {needed:,} tokens: {taken:,} of {limit:,} are taken by active chunks"
            )
    return Fit(frozenset(active), left_out)


def _precedence(claim: Claim) -> tuple[bool, tuple[float, ...], str]:
    return claim.origin == "automatic", tuple(-part for part in claim.rank), claim.key

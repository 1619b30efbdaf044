"""Speculation: which running answers get a draft in the next step, and what becomes of the drafts.

Relies on each answer to draft for itself and on the ledger for whether it is worth it; knows nothing of KV or devices.
"""

from __future__ import annotations

import time
from collections.abc import Sequence, Sized
from typing import Protocol

import numpy as np

from engine.hashing import TokenArray
from engine.runtime.ledger import Ledger

_TOGETHER = 16
"""Tokens of a step with drafts: so few take little longer than one, since weights are read once for all of them."""

NO_DRAFT: TokenArray = np.empty(0, dtype=np.int32)


class Drafting(Protocol):
    """An answer under way, as far as drafts go."""

    @property
    def draft_length(self) -> int:
        """Most tokens that its next draft may have."""

    def draft(self, most: int) -> TokenArray:
        """Tokens that may come next, int32; at most so many, maybe none."""


class Speculation:
    """Drafts for all running answers, as many as the time they have saved allows.

    Attributes:
        drafted, accepted: tokens drafted and verified so far, and those of them that proved right.
    """

    def __init__(self) -> None:
        self._ledger = Ledger()
        self.drafted = 0
        self.accepted = 0

    def drafts(self, running: Sequence[Drafting]) -> list[TokenArray]:
        """A draft, maybe empty, for each of the answers; to be asked before each step that does nothing but decode."""
        begun = time.perf_counter()
        drafts = self._drafts(running)
        self._ledger.spend(time.perf_counter() - begun)
        return drafts

    def _drafts(self, running: Sequence[Drafting]) -> list[TokenArray]:
        most = min(sum(answer.draft_length for answer in running), _TOGETHER - len(running))
        left = self._ledger.affordable(len(running), most) if most > 0 else 0
        if not left:
            return [NO_DRAFT] * len(running)
        each, drafts = -(-left // len(running)), list[TokenArray]()
        for answer in running:
            drafts.append(answer.draft(min(each, left)))
            left -= len(drafts[-1])
        return drafts

    def idle(self) -> None:
        """No answer is running."""
        self._ledger.begin()

    def book(self, drafts: Sequence[Sized], tokens: Sequence[Sized], seconds: float) -> None:
        """A step that did nothing but decode took so long: each answer's draft, maybe empty, and the tokens it gave."""
        drafted, emitted = sum(map(len, drafts)), sum(map(len, tokens))
        self._ledger.book(len(drafts), drafted, emitted, seconds)
        self.drafted += drafted
        self.accepted += emitted - len(tokens)

"""Outlook: what a question would cost now, exactly and instantly, and which of the two it should be.

Reads only. A plan shows it before anything is sent; a question asks it when its turn comes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from engine.composition import Composition
from engine.config import Fidelity
from engine.hashing import TokenArray
from engine.kv.segment_store import SegmentStore
from engine.reuse import NearKV, Residency, assess
from engine.runtime.forecast import Forecast, Work

Mode = Literal["exact", "instant"]


@dataclass(frozen=True)
class Outlook:
    """A question's cost in one mode.

    Attributes:
        residencies: of the pieces before the tail.
        reused: tokens reused of each of them, and of the tail.
        seconds: predicted time to the first token; None before anything was measured.
        near: what is used besides exact KV; None in exact mode.
    """

    mode: Mode
    residencies: tuple[Residency, ...]
    reused: tuple[int, ...]
    seconds: float | None
    near: NearKV | None = None

    @property
    def prefill(self) -> int:
        """Tokens to compute, those of the tail apart."""
        return sum(len(found.piece.tokens) - n for found, n in zip(self.residencies, self.reused, strict=False))


def look_ahead(
    store: SegmentStore,
    forecast: Forecast,
    composition: Composition,
    tail: TokenArray,
    near: NearKV | None,
    fidelity: Fidelity,
    budget: float,
) -> Outlook:
    """How a question of `fidelity` would be answered now.

    Args:
        near: what may be used besides exact KV, for `auto` only if that is safe; None leaves exact as the only mode, as
            does near KV that saves nothing.
        budget: seconds that `auto` waits longer for exact KV than for the KV there is.
    """
    residencies, kv_hash = assess(store, composition, near)
    exact_reused = [residency.exact for residency in residencies]
    exact_reused.append(store.shareable(composition.key, tail[:-1])[1])
    exact = _outlook("exact", forecast, composition, tail, residencies, exact_reused)
    if near is None or fidelity == "exact" or all(found.instant <= found.exact for found in residencies):
        return exact
    instant_reused = [residency.instant for residency in residencies]
    instant_reused.append(store.shareable(kv_hash, tail[:-1])[1])
    instant = _outlook("instant", forecast, composition, tail, residencies, instant_reused)
    at_once = fidelity == "instant" or (near.repairs.safe and _takes_longer(exact, instant, budget))
    return replace(instant, near=near) if at_once else exact


def _outlook(
    mode: Mode,
    forecast: Forecast,
    composition: Composition,
    tail: TokenArray,
    residencies: Sequence[Residency],
    reused: Sequence[int],
) -> Outlook:
    pieces = [(residency.piece.start, len(residency.piece.tokens)) for residency in residencies]
    pieces.append((composition.tokens, len(tail)))
    work = [
        Work(start + count, length - count)
        for (start, length), count in zip(pieces, reused, strict=True)
        if count < length
    ]
    return Outlook(mode, tuple(residencies), tuple(reused), forecast.seconds(work))


def _takes_longer(exact: Outlook, instant: Outlook, budget: float) -> bool:
    """Whether exact KV is further away than the budget; False before anything was measured."""
    return exact.seconds is not None and instant.seconds is not None and exact.seconds - instant.seconds > budget

"""Upkeep: background work on one context's chunks, so that a question finds their KV ready, and in the end exact.

First whatever has no KV gets some (populate), over near KV where that is what there is; then near and anchored KV is
replaced by exact (refine). Edited chunks go to their new places with that: until all of it is exact there, questions
find the old order, in which what is near reads best. In slices, so that a question waits for one at most.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

from engine.attention.base import RowResult
from engine.chunk_kv import ChunkKV
from engine.composition import Composition
from engine.context_manager import ContextManager
from engine.kv.segment import Segment
from engine.kv.segment_store import SegmentStore
from engine.reuse import NearKV
from engine.runtime.prefill import Prefill, Slice
from engine.runtime.slices import SliceSize
from engine.types import PopulateProgress


class Upkeep:
    """Makes a composition exact, slice by slice.

    Follows its context: when the active set changes it begins anew from what is still of use, so work that an edit has
    made pointless is dropped at once. With `chosen` it has a composition of its own and stays with it.

    Invariant: holds pins only between `next_slices` and `pause`.
    """

    def __init__(
        self,
        context: ContextManager,
        store: SegmentStore,
        near: Callable[[Composition], NearKV | None],
        check_fits: Callable[[int], None],
        settled: Callable[[ContextManager], None],
        chosen: Composition | None = None,
    ) -> None:
        """`near` says what may be used besides exact KV in the first phase; None skips it.

        `settled` is called when the context's order has changed by it.
        `check_fits` raises ContextFullError for so many tokens that no question could follow them.
        """
        self.context = context
        self.phase: Literal["populate", "refine"] = "populate"
        self._store = store
        self._near = near
        self._check_fits = check_fits
        self._tell_settled = settled
        self._chosen = chosen
        self._composition = chosen or context.composition()
        self._prefill: Prefill | None = None

    def look(self) -> None:
        """Take note of what its context has become, before it is asked for its phase or for work.

        Raises:
            ContextFullError: the context has grown beyond the window.
        """
        composition = self._chosen or self.context.composition()
        if composition is not self._composition:
            self.pause()
            self.phase = "populate"
            self._composition = composition
            self._check_fits(composition.tokens)

    def next_slices(self, size: SliceSize) -> list[Slice]:
        """The next tokens to compute in this phase; none when it is done.

        Raises:
            OutOfMemoryError: no room for the next piece.
        """
        if self._prefill is None:
            near = self._near(self._composition) if self.phase == "populate" else None
            self._prefill = Prefill(self._store, self._target, near)
        return self._prefill.next_slices(size(self._prefill.position()))

    @property
    def _target(self) -> Composition:
        """What this phase computes."""
        return self._composition if self._chosen or self.phase == "populate" else self.context.settled()

    def next_phase(self) -> bool:
        """Go on to the next phase; False when this was the last, and all is exact."""
        exact = self._prefill is None or self._prefill.exact
        self.pause()
        if self.phase == "populate":
            self.phase = "refine"
            if not exact or self._target.key != self._composition.key:
                return True
        if self._chosen is None:
            self._settle()
        return False

    def _settle(self) -> None:
        if self.context.settle():
            self._tell_settled(self.context)
        self.context.upheld = self.context.composition().key

    def advanced(self, results: Sequence[RowResult]) -> None:
        if self._prefill is not None:
            self._prefill.advanced(results)

    @property
    def kv(self) -> dict[str, ChunkKV]:
        """For each chunk that is there where its KV is."""
        return self._prefill.kv if self._prefill else {}

    def follows(self, context: ContextManager) -> bool:
        """It keeps up whatever is active in `context`."""
        return self._chosen is None and self.context is context

    @property
    def holds_pins(self) -> bool:
        return self._prefill is not None

    def progress(self) -> PopulateProgress:
        done = self._prefill.tokens_ready if self._prefill else 0
        return PopulateProgress(self.context.id, done, self._target.tokens, self.phase)

    def pins(self) -> list[Segment]:
        return self._prefill.pins() if self._prefill else []

    def pause(self) -> None:
        """Let go of everything; what was computed stays in the store as long as there is room."""
        if self._prefill is not None:
            self._prefill.close()
            self._prefill = None

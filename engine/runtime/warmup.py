"""Warmup: background prefill of one context's active chunks, so that a question finds their KV ready."""

from __future__ import annotations

from collections.abc import Callable

from engine.attention.base import AttentionRow
from engine.composition import Composition
from engine.context_manager import ContextManager
from engine.hashing import TokenArray
from engine.kv.segment import Segment
from engine.kv.segment_store import SegmentStore
from engine.runtime.prefill import Prefill
from engine.types import PopulateProgress


class Warmup:
    """Makes a composition exact, slice by slice.

    Follows its context: when the active set changes it begins anew from what is still of use, so work that an edit has
    made pointless is dropped at once. With `chosen` it has a composition of its own and stays with it.

    Invariant: holds pins only between `next_slice` and `pause`.
    """

    def __init__(
        self,
        context: ContextManager,
        store: SegmentStore,
        check_fits: Callable[[int], None],
        chosen: Composition | None = None,
    ) -> None:
        """`check_fits` raises ContextFullError for so many tokens that no question could follow them."""
        self._check_fits = check_fits
        self.context = context
        self._store = store
        self._chosen = chosen
        self._composition = chosen or context.composition()
        self._prefill: Prefill | None = None

    def next_slice(self, max_tokens: int) -> tuple[AttentionRow, TokenArray] | None:
        """The next tokens to compute, None when all are there.

        Raises:
            OutOfMemoryError: no room for the next piece.
            ContextFullError: the context has grown beyond the window.
        """
        composition = self._chosen or self.context.composition()
        if composition is not self._composition:
            self.pause()
            self._check_fits(composition.tokens)
            self._composition = composition
        if self._prefill is None:
            self._prefill = Prefill(self._store, composition)
        return self._prefill.next_slice(max_tokens)

    def advanced(self, count: int) -> None:
        if self._prefill is not None:
            self._prefill.advanced(count)

    @property
    def segment_keys(self) -> dict[str, bytes]:
        return self._prefill.segment_keys if self._prefill else {}

    def follows(self, context: ContextManager) -> bool:
        """It warms whatever is active in `context`."""
        return self._chosen is None and self.context is context

    @property
    def holds_pins(self) -> bool:
        return self._prefill is not None

    def progress(self) -> PopulateProgress:
        done = self._prefill.tokens_ready if self._prefill else 0
        return PopulateProgress(self.context.id, done, self._composition.tokens)

    def pins(self) -> list[Segment]:
        return self._prefill.pins() if self._prefill else []

    def pause(self) -> None:
        """Let go of everything; what was computed stays in the store as long as there is room."""
        if self._prefill is not None:
            self._prefill.close()
            self._prefill = None

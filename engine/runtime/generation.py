"""Generation: one question from its arrival to the last event of its answer. Owned by the scheduler.

Knows its prompt, its KV and its text; not the device, nor other generations.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from engine.attention.base import RowResult
from engine.chat_stream import ChatStream
from engine.chunk_kv import ChunkKV
from engine.composition import Composition
from engine.config import SamplingParams
from engine.context_manager import ContextManager
from engine.errors import OutOfMemoryError
from engine.hashing import TokenArray
from engine.kv.segment import Segment
from engine.kv.segment_store import SegmentStore
from engine.reuse import NearKV
from engine.runtime.answer_text import AnswerText
from engine.runtime.draft import Drafter
from engine.runtime.prefill import Prefill, Slice, Tail
from engine.runtime.sampler import SamplingState
from engine.runtime.slices import SliceSize
from engine.runtime.speculation import NO_DRAFT
from engine.types import ChatDelta, ChunkPlan, PopulateProgress, StopReason, Timing, Usage


@dataclass(frozen=True)
class Question:
    """What is asked, as data: fixed when it is asked, whatever its context becomes afterwards.

    Attributes:
        composition: the pieces before the tail.
        tail: the last piece, int32 [n].
        chunk_names: names of the composition's chunks by hash.
        near: says, when the question's turn comes, what may be used besides exact KV; None for nothing.
        max_new_tokens: most tokens to generate, by `params` and by the context window.
    """

    context: ContextManager | None
    composition: Composition
    tail: TokenArray
    chunk_names: dict[str, str]
    params: SamplingParams
    near: Callable[[], NearKV | None]
    tags: tuple[str, ...]
    max_new_tokens: int

    @property
    def prompt_tokens(self) -> int:
        return self.composition.tokens + len(self.tail)


class Generation:
    """One question under way.

    Invariants: from `restart` to `release` it holds the pins of its prefill, and from the tail on a private segment;
    after `release` it holds nothing.
    """

    def __init__(
        self,
        question: Question,
        stream: ChatStream,
        store: SegmentStore,
        sampling: SamplingState,
        answer: AnswerText,
        eos_token_ids: frozenset[int],
    ) -> None:
        self.question = question
        self.stream = stream
        self.sampling = sampling
        self.generated: list[int] = []
        self.answer = answer
        self._store = store
        self._eos_token_ids = eos_token_ids - answer.inner_ends
        self._drafter = Drafter([*(piece.tokens for piece in question.composition.pieces), question.tail])
        self._drafted = 0
        self._tail: Tail | None = None
        self._prefilled_of_tail = 0
        self._told = 0
        self._asked = time.monotonic()
        self._started: float | None = None
        self._first_token: float | None = None
        self.restart()

    def restart(self) -> None:
        """Begin the prompt anew, holding nothing; KV computed so far stays in the store as long as there is room."""
        self._prefill: Prefill | None = None

    def next_token(self, draft: TokenArray = NO_DRAFT) -> list[Slice]:
        """The token sampled last, and behind it as much of a draft as has room."""
        assert self._tail is not None
        slice_ = self._tail.next_slice(1, draft)
        self._drafted = slice_.samples - 1
        return [slice_]

    def next_slices(self, size: SliceSize) -> list[Slice]:
        """What to compute next of the prompt. May raise OutOfMemoryError; it then holds what it held before."""
        self._started = self._started or time.monotonic()
        if self._tail is not None:
            return [self._tail.next_slice(size(self._tail.position))]
        if self._prefill is None:
            self._prefill = Prefill(self._store, self.question.composition, self.question.near())
        max_tokens = size(self._prefill.position())
        slices = self._prefill.next_slices(max_tokens)
        left = max_tokens - sum(len(piece.tokens) for piece in slices)
        if not self._prefill.complete or not left or (slices and self._store.stateful):
            return slices
        return slices + self._begin_tail(left, bool(slices))

    def _begin_tail(self, max_tokens: int, can_wait: bool) -> list[Slice]:
        """The tail's first slice, in the same step as the last of what stands before it."""
        assert self._prefill is not None
        try:
            self._tail = Tail(self._store, self._prefill, self.question.tail)
        except OutOfMemoryError:
            if can_wait:
                return []
            raise
        return [self._tail.next_slice(max_tokens)]

    def advanced(self, results: Sequence[RowResult]) -> None:
        """The slices handed out last are computed, with these results."""
        assert self._prefill is not None
        before = self._prefill.in_flight
        self._prefill.advanced(results[:before])
        if self._tail is not None:
            computed = self._tail.advanced(results[-1].state)
            self._prefilled_of_tail += computed if not self.generated else 0

    def progress(self) -> PopulateProgress | None:
        """How far the chunks are, if that is news; None without a context."""
        context = self.question.context
        if context is None or self._prefill is None or self._prefill.tokens_ready == self._told:
            return None
        self._told = self._prefill.tokens_ready
        return PopulateProgress(context.id, self._prefill.tokens_ready, self.question.composition.tokens)

    @property
    def kv(self) -> dict[str, ChunkKV]:
        """For each chunk that is there where its KV is."""
        return self._prefill.kv if self._prefill else {}

    @property
    def draft_length(self) -> int:
        """Most tokens that the next draft may have."""
        return self._drafter.length

    def draft(self, most: int) -> TokenArray:
        """Tokens that the answer may say next, int32: at most so many, none behind its end."""
        room = self.question.max_new_tokens - len(self.generated) - 1
        draft = self._drafter.draft(self.generated, min(most, room))
        ends = np.flatnonzero(np.isin(draft, list(self._eos_token_ids)))
        return draft[: ends[0] + 1] if len(ends) else draft

    def has_room(self, count: int) -> bool:
        """Whether so many tokens can be taken, should the answer go on behind them."""
        assert self._tail is not None
        return self._tail.has_room(count)

    def take(self, tokens: Sequence[int]) -> StopReason | None:
        """Take the tokens sampled in one step, all but the last as they were drafted: emit the text that is certain.

        Returns whether and why the answer ends with one of them; those behind it are dropped. May raise
        OutOfMemoryError when the next token's KV has no room.
        """
        assert self._tail is not None
        if self._drafted:
            self._drafter.verified(self._drafted, len(tokens) - 1)
        for index, token in enumerate(tokens):
            if (reason := self._push(token, computed=index < len(tokens) - 1)) is not None:
                return reason
        self._tail.trim()
        return None

    def _push(self, token: int, *, computed: bool) -> StopReason | None:
        assert self._tail is not None
        self._first_token = self._first_token or time.monotonic()
        self.generated.append(token)
        if token in self._eos_token_ids:
            return "stop"
        if self._emit(self.answer.push(token)):
            return "stop"
        if len(self.generated) >= self.question.max_new_tokens:
            return "length"
        self._tail.append(token, computed=computed)
        return None

    def _emit(self, deltas: list[ChatDelta]) -> bool:
        """Pass on what is certain; True when the text has ended by itself."""
        for delta in deltas:
            self.stream.put(delta)
        return self.answer.over

    def flush(self) -> None:
        """Emit what was held back."""
        self._emit(self.answer.flush())

    def pins(self) -> list[Segment]:
        return self._prefill.pins() if self._prefill else []

    def release(self) -> None:
        """Let go of all KV. What was computed stays in the store for later questions, as long as there is room."""
        if self._tail is not None:
            self._tail.close()
            self._tail = None
        if self._prefill is not None:
            self._prefill.close()

    # -- figures ---------------------------------------------------------------------------------------------------

    def usage(self) -> Usage:
        """Tokens so far; a question that never ran has prefilled nothing."""
        prompt = self.question.prompt_tokens
        of_chunks = self._prefill.prefilled if self._prefill else 0
        prefilled = min(prompt, of_chunks + self._prefilled_of_tail)
        return Usage(prompt, prompt - prefilled, prefilled, len(self.generated), self.answer.reasoning_tokens)

    def timing(self) -> Timing:
        now = time.monotonic()
        first = self._first_token or now
        decoding = now - first
        return Timing(
            queued=(self._started or now) - self._asked,
            time_to_first_token=first - self._asked,
            total=now - self._asked,
            tokens_per_second=(len(self.generated) - 1) / decoding if len(self.generated) > 1 and decoding > 0 else 0.0,
        )

    def chunk_plans(self) -> tuple[ChunkPlan, ...]:
        """How each chunk was used, in prompt order."""
        names = self.question.chunk_names
        used = self._prefill.used if self._prefill else {}
        return tuple(
            ChunkPlan(hash, names[hash], reused + prefilled, reused, prefilled, label)
            for hash, (reused, prefilled, label) in used.items()
        )

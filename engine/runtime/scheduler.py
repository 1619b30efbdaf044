"""Scheduler: what the next step computes, by priority, and what becomes of its results.

Decode of running answers > prefill of a question > background prefill. Owns all generations and warmups. Host work,
under the engine's lock; knows nothing of tensors or threads.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from engine.attention.base import AttentionRow
from engine.context_manager import ContextManager
from engine.errors import EngineError, OutOfMemoryError
from engine.hashing import TokenArray
from engine.kv.segment import Segment
from engine.runtime.generation import Generation
from engine.runtime.warmup import Warmup
from engine.types import PopulateProgress, StopReason


@dataclass(frozen=True)
class StepRow:
    """One sequence's share of a step.

    Attributes:
        tokens: int32 [row.num_tokens].
        sample: the last token's logits are wanted.
        decodes: the token is one of an answer, not of a prompt.
    """

    owner: Generation | Warmup
    row: AttentionRow
    tokens: TokenArray
    sample: bool
    decodes: bool = False


class Scheduler:
    """All work there is.

    Attributes:
        questions: generations not yet decoding, in order of arrival.
        running: generations that decode.
        warmups: at most one per context that follows it, and any number of chosen ones.

    Invariants: a generation is in `questions` or `running`, never in both; whatever leaves them has released its KV.
    """

    def __init__(
        self,
        slice_tokens: int,
        max_batch: int,
        finish: Callable[[Generation, StopReason], None],
        fail: Callable[[Generation, EngineError], None],
        progressed: Callable[[PopulateProgress], None],
        warmup_failed: Callable[[Warmup, EngineError], None],
    ) -> None:
        """`finish` and `fail` release a generation and tell its stream; the others are told how warmups fare."""
        self._slice_tokens = slice_tokens
        self._max_batch = max_batch
        self._finish = finish
        self._tell_failed = fail
        self._progressed = progressed
        self._warmup_failed = warmup_failed
        self.questions: list[Generation] = []
        self.running: list[Generation] = []
        self.warmups: list[Warmup] = []

    # -- what comes in ---------------------------------------------------------------------------------------------

    def cancel(self, generation: Generation) -> None:
        """End it at once, if it has not ended. A step under way computes on, but its result is dropped."""
        if generation in self.questions or generation in self.running:
            self._end(generation, "cancelled")

    def drop_warmups(self, context: ContextManager) -> None:
        for warmup in [warmup for warmup in self.warmups if warmup.context is context]:
            self._drop(warmup)

    def drop_all(self, error: EngineError) -> None:
        for generation in [*self.running, *self.questions]:
            self._fail(generation, error)
        for warmup in list(self.warmups):
            self._drop(warmup)

    def pins(self) -> list[Segment]:
        """Every segment that is held, once per pin."""
        owners: list[Generation | Warmup] = [*self.questions, *self.running, *self.warmups]
        return [segment for owner in owners for segment in owner.pins()]

    # -- the next step ---------------------------------------------------------------------------------------------

    def next_step(self) -> list[StepRow]:
        """The rows to compute now; empty when there is nothing to do."""
        rows = [StepRow(running, *running.next_slice(1), sample=True, decodes=True) for running in self.running]
        question = self._question_row()
        if question is not None:
            rows.append(question)
        if not rows:
            background = self._warmup_row()
            rows = [background] if background else []
        return rows

    def _row(self, owner: Generation | Warmup, row: AttentionRow, tokens: TokenArray) -> StepRow:
        whole = row.segment.filled + row.num_tokens == len(row.segment.tokens)
        return StepRow(owner, row, tokens, sample=whole and isinstance(owner, Generation) and owner.in_tail)

    def _question_row(self) -> StepRow | None:
        """A slice of the oldest question; a question that finds no room waits, or fails if nobody will make any."""
        while self.questions and len(self.running) < self._max_batch:
            generation = self.questions[0]
            try:
                return self._row(generation, *generation.next_slice(self._slice_tokens))
            except OutOfMemoryError as error:
                if self._pause_warmups():
                    continue
                if self.running:
                    generation.release()
                    generation.restart()
                    return None
                self._fail(generation, error)
        return None

    def _pause_warmups(self) -> bool:
        """Take background work's pins; True if there were any."""
        held = [warmup for warmup in self.warmups if warmup.holds_pins]
        for warmup in held:
            warmup.pause()
        return bool(held)

    def _warmup_row(self) -> StepRow | None:
        while self.warmups:
            warmup = self.warmups[0]
            try:
                piece = warmup.next_slice(self._slice_tokens)
            except EngineError as error:
                self._drop(warmup)
                self._warmup_failed(warmup, error)
                continue
            if piece is not None:
                return self._row(warmup, *piece)
            self._remember(warmup)
            self._progressed(warmup.progress())
            self._drop(warmup)
        return None

    # -- its results -----------------------------------------------------------------------------------------------

    def computed(self, rows: Sequence[StepRow]) -> list[Generation]:
        """Note what a step has computed; returns whom to sample for, in the order of the rows that asked for it.

        Owners may have ended meanwhile: KV that was written counts only if they still own it.
        """
        for step_row in rows:
            owner = step_row.owner
            if isinstance(owner, Warmup):
                if owner in self.warmups:
                    owner.advanced(step_row.row.num_tokens)
                    self._remember(owner)
                    self._progressed(owner.progress())
            elif self._lives(owner):
                owner.advanced(step_row.row.num_tokens)
                self._remember(owner)
                if (progress := owner.progress()) is not None:
                    self._progressed(progress)
        return [step_row.owner for step_row in rows if step_row.sample and isinstance(step_row.owner, Generation)]

    def sampled(self, generations: Sequence[Generation], tokens: Sequence[int]) -> None:
        """Hand each generation its next token; those that don't end here decode on."""
        for generation, token in zip(generations, tokens, strict=True):
            if not self._lives(generation):
                continue
            if generation in self.questions:
                self.questions.remove(generation)
                self.running.append(generation)
            try:
                reason = generation.push(token)
            except OutOfMemoryError as error:
                self._fail(generation, error)
                continue
            if reason is not None:
                self._end(generation, reason)

    def step_failed(self, rows: Sequence[StepRow], error: EngineError) -> None:
        """A step broke: those who were in it fail, all others go on."""
        for step_row in rows:
            if isinstance(step_row.owner, Warmup):
                if step_row.owner in self.warmups:
                    self._drop(step_row.owner)
                    self._warmup_failed(step_row.owner, error)
            elif self._lives(step_row.owner):
                self._fail(step_row.owner, error)

    # -- the ends --------------------------------------------------------------------------------------------------

    def _lives(self, generation: Generation) -> bool:
        return generation in self.questions or generation in self.running

    def _end(self, generation: Generation, reason: StopReason) -> None:
        self._remove(generation)
        self._remember(generation)
        self._finish(generation, reason)

    def _fail(self, generation: Generation, error: EngineError) -> None:
        self._remove(generation)
        self._tell_failed(generation, error)

    def _remove(self, generation: Generation) -> None:
        (self.questions if generation in self.questions else self.running).remove(generation)

    def _drop(self, warmup: Warmup) -> None:
        self.warmups.remove(warmup)
        warmup.pause()

    def _remember(self, owner: Generation | Warmup) -> None:
        """Tell the context where its chunks' KV is now."""
        context = owner.context if isinstance(owner, Warmup) else owner.question.context
        if context is not None:
            context.remember_segments(owner.segment_keys)

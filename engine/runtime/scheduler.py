"""Scheduler: what the next step computes, by priority, and what becomes of its results.

Decode of running answers > prefill of a question > KV for chunks that have none > refining. Owns all generations and
all upkeep. Host work, under the engine's lock; knows nothing of tensors or threads.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby

from engine.attention.base import AttentionRow, RowResult
from engine.context_manager import ContextManager
from engine.errors import EngineError, OutOfMemoryError
from engine.hashing import TokenArray
from engine.kv.segment import Segment
from engine.runtime.generation import Generation
from engine.runtime.prefill import Slice
from engine.runtime.slices import Slices
from engine.runtime.speculation import NO_DRAFT, Speculation
from engine.runtime.upkeep import Upkeep
from engine.types import PopulateProgress, StopReason

Owner = Generation | Upkeep


@dataclass(frozen=True)
class StepRow:
    """One slice of a step; those of one owner stand together.

    Attributes:
        tokens: int32 [row.num_tokens].
        samples: behind how many of the last tokens logits are wanted.
        decodes: the first token is one of an answer, not of a prompt; those behind it are a draft.
    """

    owner: Owner
    row: AttentionRow
    tokens: TokenArray
    samples: int
    decodes: bool = False

    @property
    def draft(self) -> TokenArray:
        """What is to be verified: the tokens behind which logits are wanted, but for the first."""
        return self.tokens[len(self.tokens) - self.samples + 1 :] if self.samples else self.tokens[:0]


def step_rows(owner: Owner, slices: Sequence[Slice], *, decodes: bool = False) -> list[StepRow]:
    """An owner's slices as rows of a step; only answers are sampled for."""
    return [StepRow(owner, piece.row, piece.tokens, piece.samples, decodes) for piece in slices]


class Scheduler:
    """All work there is.

    Attributes:
        questions: generations not yet decoding, in order of arrival.
        running: generations that decode.
        upkeep: at most one per context that follows it, and any number of chosen ones.

    Invariants: a generation is in `questions` or `running`, never in both; whatever leaves them has released its KV.
    """

    def __init__(
        self,
        slices: Slices,
        max_batch: int,
        finish: Callable[[Generation, StopReason], None],
        fail: Callable[[Generation, EngineError], None],
        progressed: Callable[[PopulateProgress], None],
        upkeep_failed: Callable[[Upkeep, EngineError], None],
        speculation: Speculation | None = None,
    ) -> None:
        """`finish` and `fail` release a generation and tell its stream; the others are told how upkeep fares.

        Without `speculation` no answer drafts what it may say next.
        """
        self._slices = slices
        self._max_batch = max_batch
        self._finish = finish
        self._tell_failed = fail
        self._progressed = progressed
        self._upkeep_failed = upkeep_failed
        self._speculation = speculation
        self.questions: list[Generation] = []
        self.running: list[Generation] = []
        self.upkeep: list[Upkeep] = []

    # -- what comes in ---------------------------------------------------------------------------------------------

    def cancel(self, generation: Generation) -> None:
        """End it at once, if it has not ended. A step under way is given up or computes on; its result is dropped."""
        if generation in self.questions or generation in self.running:
            self._end(generation, "cancelled")

    def drop_upkeep(self, context: ContextManager) -> None:
        for upkeep in [upkeep for upkeep in self.upkeep if upkeep.context is context]:
            self._drop(upkeep)

    def drop_all(self, error: EngineError) -> None:
        for generation in [*self.running, *self.questions]:
            self._fail(generation, error)
        for upkeep in list(self.upkeep):
            self._drop(upkeep)

    def pins(self) -> list[Segment]:
        """Every segment that is held, once per pin."""
        owners: list[Owner] = [*self.questions, *self.running, *self.upkeep]
        return [segment for owner in owners for segment in owner.pins()]

    # -- the next step ---------------------------------------------------------------------------------------------

    def next_step(self) -> list[StepRow]:
        """The rows to compute now; empty when there is nothing to do."""
        rows = self._decode_rows()
        rows += self._question_rows()
        return rows or self._upkeep_rows()

    def _decode_rows(self) -> list[StepRow]:
        """The next token of every running answer; with drafts behind them if the step does nothing else."""
        drafts = [NO_DRAFT] * len(self.running)
        if self._speculation is not None and not self.running:
            self._speculation.idle()
        elif self._speculation is not None and not self._takes_question:
            drafts = self._speculation.drafts(self.running)
        return [
            row
            for running, draft in zip(self.running, drafts, strict=True)
            for row in step_rows(running, running.next_token(draft), decodes=True)
        ]

    @property
    def _takes_question(self) -> bool:
        return bool(self.questions) and len(self.running) < self._max_batch

    def _question_rows(self) -> list[StepRow]:
        """Slices of the oldest question; a question that finds no room waits, or fails if nobody will make any."""
        size = self._slices.waited_for if self.running else self._slices.alone
        while self._takes_question:
            generation = self.questions[0]
            try:
                return step_rows(generation, generation.next_slices(size))
            except OutOfMemoryError as error:
                if self._pause_upkeep():
                    continue
                if self.running:
                    generation.release()
                    generation.restart()
                    return []
                self._fail(generation, error)
        return []

    def _pause_upkeep(self, but: Upkeep | None = None) -> bool:
        """Take background work's pins; True if there were any."""
        held = [upkeep for upkeep in self.upkeep if upkeep.holds_pins and upkeep is not but]
        for upkeep in held:
            upkeep.pause()
        return bool(held)

    def _upkeep_rows(self) -> list[StepRow]:
        """Slices of the first that still lacks KV, else of the first that refines."""
        while (upkeep := self._next_upkeep()) is not None:
            try:
                slices = upkeep.next_slices(self._slices.background)
            except OutOfMemoryError as error:
                if not self._pause_upkeep(but=upkeep):
                    self._drop_failed(upkeep, error)
                continue
            if slices:
                return step_rows(upkeep, slices)
            self._remember(upkeep)
            self._progressed(upkeep.progress())
            if not upkeep.next_phase():
                self._drop(upkeep)
        return []

    def _next_upkeep(self) -> Upkeep | None:
        for upkeep in list(self.upkeep):
            try:
                upkeep.look()
            except EngineError as error:
                self._drop_failed(upkeep, error)
        return min(self.upkeep, key=lambda upkeep: upkeep.phase == "refine", default=None)

    # -- its results -----------------------------------------------------------------------------------------------

    def computed(self, rows: Sequence[StepRow], results: Sequence[RowResult]) -> list[Generation]:
        """Note what a step has computed; returns whom to sample for, in the order of the rows that asked for it.

        Owners may have ended meanwhile: KV that was written counts only if they still own it.
        """
        pairs = list(zip(rows, results, strict=True))
        for owner, group in groupby(pairs, key=lambda pair: pair[0].owner):
            if not self._lives(owner):
                continue
            of_owner = list(group)
            owner.advanced([result for _, result in of_owner])
            if of_owner[0][0].decodes:
                continue  # no chunk has more KV by it
            self._remember(owner)
            if (progress := owner.progress()) is not None:
                self._progressed(progress)
        return [row.owner for row in rows if row.samples and isinstance(row.owner, Generation)]

    def sampled(self, generations: Sequence[Generation], tokens: Sequence[Sequence[int]]) -> None:
        """Hand each generation its next tokens; those that don't end here decode on."""
        for generation, sampled in zip(generations, tokens, strict=True):
            if not self._lives(generation):
                continue
            if generation in self.questions:
                self.questions.remove(generation)
                self.running.append(generation)
            while not generation.has_room(len(sampled)) and self._make_room(generations):
                pass
            try:
                reason = generation.take(sampled)
            except OutOfMemoryError as error:
                self._fail(generation, error)
                continue
            if reason is not None:
                self._end(generation, reason)

    def _make_room(self, sampling: Sequence[Generation]) -> bool:
        """Take room from whatever comes behind a running answer, but for those about to run; True if there was any."""
        if self._pause_upkeep():
            return True
        for generation in self.questions:
            if generation not in sampling and generation.pins():
                generation.release()
                generation.restart()
                return True
        return False

    def step_failed(self, rows: Sequence[StepRow], error: EngineError) -> None:
        """A step broke: those who were in it fail, all others go on."""
        for owner in dict.fromkeys(row.owner for row in rows):
            if not self._lives(owner):
                continue
            if isinstance(owner, Upkeep):
                self._drop_failed(owner, error)
            else:
                self._fail(owner, error)

    def unwanted(self, rows: Sequence[StepRow]) -> bool:
        """Whether nobody needs this step's results now: its owners have ended, or keep a question waiting.

        Asked by the worker's thread while it computes, without the lock: it only looks.
        """
        return all(not self._lives(row.owner) or (isinstance(row.owner, Upkeep) and self.questions) for row in rows)

    def given_up(self, rows: Sequence[StepRow]) -> None:
        """A step that was `unwanted` has ended before its time: background work computes it again later."""
        for owner in dict.fromkeys(row.owner for row in rows):
            if isinstance(owner, Upkeep):
                owner.pause()

    # -- the ends --------------------------------------------------------------------------------------------------

    def _lives(self, owner: Owner) -> bool:
        return owner in self.upkeep or owner in self.questions or owner in self.running

    def _end(self, generation: Generation, reason: StopReason) -> None:
        self._remove(generation)
        self._remember(generation)
        self._finish(generation, reason)

    def _fail(self, generation: Generation, error: EngineError) -> None:
        self._remove(generation)
        self._tell_failed(generation, error)

    def _remove(self, generation: Generation) -> None:
        (self.questions if generation in self.questions else self.running).remove(generation)

    def _drop(self, upkeep: Upkeep) -> None:
        self.upkeep.remove(upkeep)
        upkeep.pause()

    def _drop_failed(self, upkeep: Upkeep, error: EngineError) -> None:
        self._drop(upkeep)
        self._upkeep_failed(upkeep, error)

    def _remember(self, owner: Owner) -> None:
        """Tell the context where its chunks' KV is now."""
        context = owner.context if isinstance(owner, Upkeep) else owner.question.context
        if context is not None:
            context.remember_kv(owner.kv)

"""Answers: turns a question into a generation, and a finished generation into its last event and an output chunk."""

from __future__ import annotations

from collections.abc import Sequence

from engine.chat_stream import ChatStream
from engine.chunk import Chunk
from engine.composition import Composition
from engine.config import Fidelity, SamplingParams
from engine.context_manager import ContextManager
from engine.errors import EngineError, InvalidRequestError
from engine.hashing import TokenArray
from engine.reuse import NearKV
from engine.runtime.answer_text import AnswerText
from engine.runtime.generation import Generation, Question
from engine.runtime.sampler import SamplingState
from engine.state import EngineState
from engine.types import ChatDone, ChunkKind, StopReason


class Answers:
    """Generations by their streams. All methods expect the engine's lock to be held, but for `cancel`."""

    def __init__(self, state: EngineState) -> None:
        self._state = state
        self._generations: dict[ChatStream, Generation] = {}

    def ask(
        self,
        manager: ContextManager | None,
        composition: Composition,
        tail: TokenArray,
        params: SamplingParams | None,
        fidelity: Fidelity,
        tags: Sequence[str] = (),
        budget: float | None = None,
    ) -> ChatStream:
        """Queue a question behind `composition`; its stream ends with ChatDone or an EngineError.

        Raises:
            ContextFullError: the prompt leaves no room for an answer.
        """
        state = self._state
        state.check_open()
        check_fidelity(fidelity, budget)
        params = params or SamplingParams()
        tokens = composition.tokens + len(tail)
        state.check_fits(tokens)
        question = Question(
            context=manager,
            composition=composition,
            tail=tail,
            chunk_names={chunk.hash: chunk.name for chunk in manager} if manager else {},
            params=params,
            near=lambda: self._near(manager, composition, tail, fidelity, budget),
            tags=tuple(tags),
            max_new_tokens=min(params.max_tokens or state.max_context, state.max_context - tokens),
        )
        stream = ChatStream(self.cancel)
        self._generations[stream] = self._generation(question, stream)
        state.scheduler.questions.append(self._generations[stream])
        state.changed.notify_all()
        return stream

    def _near(
        self,
        manager: ContextManager | None,
        composition: Composition,
        tail: TokenArray,
        fidelity: Fidelity,
        budget: float | None,
    ) -> NearKV | None:
        """What a question whose turn has come may use besides exact KV; what it finds near is made exact later."""
        if manager is None or fidelity == "exact":
            return None
        outlook = self._state.outlook(manager, composition, tail, fidelity, budget)
        if outlook.mode == "exact":
            return None
        # what was exact once has been evicted, or nothing near would be used
        manager.kept_up, manager.upheld = True, None
        self._state.keep_up(manager)
        return outlook.near

    def _generation(self, question: Question, stream: ChatStream) -> Generation:
        model = self._state.model
        parts = (*(piece.tokens for piece in question.composition.pieces), question.tail)
        prompt = (token for part in parts for token in part.tolist())  # few answers look at it, and it may be long
        return Generation(
            question,
            stream,
            self._state.store,
            SamplingState(question.params, prompt, model.device),
            AnswerText(model.tokenizer, question.tail.tolist(), question.params.stop),
            model.tokenizer.eos_token_ids,
        )

    def cancel(self, stream: ChatStream) -> None:
        """Stop computing for the stream, if it has not ended."""
        with self._state.changed:
            generation = self._generations.get(stream)
            if generation is not None:
                self._state.scheduler.cancel(generation)
                self._state.changed.notify_all()

    def finish(self, generation: Generation, reason: StopReason) -> None:
        """The answer has ended: free its KV, keep it as an output chunk, send the last event."""
        del self._generations[generation.stream]
        generation.flush()
        generation.release()
        generation.stream.put(
            ChatDone(
                stop_reason=reason,
                text=generation.answer.text,
                usage=generation.usage(),
                timing=generation.timing(),
                chunks=generation.chunk_plans(),
                output=self._keep(generation) if reason != "cancelled" else None,
                reasoning=generation.answer.reasoning,
            )
        )

    def fail(self, generation: Generation, error: EngineError) -> None:
        """The answer can't be given: free its KV and say why."""
        del self._generations[generation.stream]
        generation.release()
        generation.stream.put(error)

    def _keep(self, generation: Generation) -> str | None:
        """Add the answer to its context as an inactive chunk; None without a context or without a text."""
        manager = generation.question.context
        if manager is None or not generation.answer.text:
            return None
        turn, source = manager.next_turn()
        saw = tuple(f"saw:{plan.hash[:12]}" for plan in generation.chunk_plans())
        output = manager.add(
            Chunk(
                text=generation.answer.text,
                kind=ChunkKind.OUTPUT,
                tokens=manager.encode(generation.answer.text, ChunkKind.OUTPUT, (source,)),
                sources=(source,),
                tags=(f"turn:{turn}", *saw, *generation.question.tags),
                active=False,
                generated=generation.answer.tokens,
            )
        )
        self._state.chunks_changed(manager)
        return output.hash


def check_fidelity(fidelity: Fidelity, budget: float | None) -> None:
    """InvalidRequestError if either is not what it must be."""
    if fidelity not in ("exact", "auto", "instant"):
        raise InvalidRequestError(f"fidelity must be 'exact', 'auto' or 'instant', not {fidelity!r}.")
    if budget is not None and not budget >= 0:
        raise InvalidRequestError(f"budget must be 0 or more seconds, not {budget!r}.")

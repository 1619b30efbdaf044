"""What is compared: this engine in several ways of asking, and the transformers peer, behind one small interface.

A side goes through the trace step by step; the time to its first token is taken here. Knows nothing of tables.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch

from benchmarks.baseline import PrefixCachedModel
from benchmarks.clock import Clock, timed
from benchmarks.idle import Pauses
from benchmarks.steps import Labels, Step
from engine import Engine, EngineConfig, SamplingParams
from engine.config import Fidelity
from engine.context import Context
from engine.model import LoadedModel
from engine.tokenizer import Tokenizer
from engine.types import ChatDone


@dataclass(frozen=True)
class Change:
    """Seconds that a change took on the host, and those of the background, before or behind it as the side says."""

    host: float = 0.0
    background: float = 0.0


@dataclass(frozen=True)
class Answer:
    """What came of a question.

    Attributes:
        seconds: to the first token, wall time; `cpu_seconds` the CPU time of the process in it.
        per_token: seconds for each token after the first; None if there was none.
        computed, reused: tokens of the prompt.
        text: the first token's.
        gap: between the likeliest and the next token's logits, where they are known.
        labels: fidelity of each file, where the side has such.
        anew: files which this answer computed, but for first tokens with which another file there began as well.
    """

    seconds: float
    cpu_seconds: float
    per_token: float | None
    computed: int
    reused: int
    text: str
    gap: float | None = None
    labels: Labels | None = None
    anew: frozenset[str] = frozenset()


class Side(Protocol):
    """Goes through a trace: `begin`, then `change` and `ask` for each step, then `end`."""

    name: str

    def begin(self) -> None: ...

    def change(self, step: Step) -> Change: ...

    def ask(self, step: Step, ids: Sequence[int]) -> Answer:
        """Answer the step's question; `ids` are the prompt's, which a side may also make itself."""
        ...

    def end(self) -> None: ...


@dataclass(frozen=True)
class Warmth:
    """What is computed beside the answers.

    Attributes:
        settled: before each change all KV is made exact; nothing is computed between change and question.
        after_change: the user waits after each change until the background has computed everything.
        rehearsal: steps gone through first, in a context of their own.
    """

    settled: bool = False
    after_change: bool = False
    rehearsal: tuple[Step, ...] = ()


class EngineSide:
    """This engine. Each trace gets an engine of its own over the same weights, so none finds another's KV.

    Its time to the first token begins with the question as text and includes building the prompt from it.
    """

    def __init__(
        self,
        name: str,
        model: LoadedModel,
        config: EngineConfig,
        *,
        fidelity: Fidelity = "exact",
        warmth: Warmth | None = None,
        answer_tokens: int = 1,
    ) -> None:
        self.name = name
        self._model = model
        self._config = config
        self._fidelity = fidelity
        self._warmth = warmth or Warmth()
        self._params = SamplingParams(max_tokens=answer_tokens)

    def begin(self) -> None:
        self.engine = Engine(self._config, model=self._model)
        self._rehearse()
        self._context: Context = self.engine.context("trace", order="fixed")
        self._pauses = Pauses(self.engine) if self._warmth.settled else None

    def _rehearse(self) -> None:
        """So that nothing is compiled or captured for the first time when it is measured."""
        if not self._warmth.rehearsal:
            return
        context = self.engine.context("rehearsal", order="fixed")
        for step in self._warmth.rehearsal:
            step.change(context)
            for _ in context.chat(step.question, SamplingParams(max_tokens=2), fidelity="instant"):
                pass
        self.engine.drop_context(context.id)

    def end(self) -> None:
        self.engine.close()

    def change(self, step: Step) -> Change:
        device = self._model.device
        settling = timed(device, self._settle) if self._pauses is not None else 0.0
        host = timed(device, lambda: step.change(self._context))
        return Change(host, timed(device, self._populate) if self._warmth.after_change else settling)

    def _settle(self) -> None:
        if self._pauses is not None and self._context.chunks():
            self._context.populate()
            self._pauses.take(None)

    def _populate(self) -> None:
        self._context.populate()
        self._context.wait_populated()

    def prompt(self, step: Step) -> list[int]:
        """The step's prompt as token ids."""
        return self._context.prompt_tokens(step.question)

    def ask(self, step: Step, ids: Sequence[int]) -> Answer:
        clock = Clock(self._model.device)
        stream = self._context.chat(step.question, self._params, fidelity=self._fidelity)
        first = next(stream)
        clock.stop()
        done = first if isinstance(first, ChatDone) else [*stream][-1]
        assert isinstance(done, ChatDone)
        if done.usage.prompt_tokens != len(ids):
            raise AssertionError(f"{self.name} asked with {done.usage.prompt_tokens} tokens, others with {len(ids)}")
        speed = done.timing.tokens_per_second
        return Answer(
            seconds=clock.seconds,
            cpu_seconds=clock.cpu_seconds,
            per_token=1 / speed if speed else None,
            computed=done.usage.prefilled_tokens,
            reused=done.usage.reused_tokens,
            text=first.text,
            labels={plan.name: plan.fidelity for plan in done.chunks},
            anew=frozenset(plan.name for plan in done.chunks if plan.reused < plan.prefill),
        )


class PeerSide:
    """transformers with a prefix cache. It is handed the prompt's token ids; nothing else of it is timed."""

    def __init__(
        self, name: str, model: PrefixCachedModel, tokenizer: Tokenizer, device: torch.device, *, answer_tokens: int = 1
    ) -> None:
        self.name = name
        self._model = model
        self._tokenizer = tokenizer
        self._device = device
        self._answer_tokens = answer_tokens

    def begin(self) -> None:
        self._model.reset()

    def end(self) -> None:
        self._model.reset()

    def change(self, step: Step) -> Change:
        return Change()

    def ask(self, step: Step, ids: Sequence[int]) -> Answer:
        model = self._model
        clock = Clock(self._device)
        token = model.first_token(ids)
        clock.stop()
        best, second = model.logits.float().topk(2).values.tolist()
        return Answer(
            seconds=clock.seconds,
            cpu_seconds=clock.cpu_seconds,
            per_token=self._per_token(token),
            computed=model.computed,
            reused=model.reused,
            text=self._tokenizer.decode([token]),
            gap=best - second,
        )

    def _per_token(self, token: int) -> float | None:
        rest = self._answer_tokens - 1
        if not rest:
            return None

        def decode() -> None:
            following = token
            for _ in range(rest):
                following = self._model.next_token(following)

        return timed(self._device, decode) / rest

"""Runner: one step on the device — rows in, logits out. Knows nothing of questions, chunks or priorities."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from engine.attention.base import AttentionBackend, RowResult
from engine.models.advance import advance
from engine.models.language_model import AttendOrKeep, LanguageModel
from engine.runtime.scheduler import StepRow


class SmallSteps(Protocol):
    """A quicker way for steps of few tokens, see `Graphs` and `NativeSteps`."""

    def run(self, rows: Sequence[StepRow], wanted: Sequence[int]) -> tuple[Tensor, list[RowResult]] | None:
        """Logits of the places `wanted`, float32 [wanted, vocab], good until the next step, and what is left of each
        row; None if the step has to go the usual way.

        Places are counted over all rows' tokens.
        """
        ...

    def release(self) -> None: ...


class OtherRanks(Protocol):
    """Those who compute every step, too, see `Mirror`."""

    def step(self) -> AbstractContextManager[None]: ...

    def computes(self, tokens: NDArray[np.int64], positions: NDArray[np.int64], wanted: NDArray[np.int64]) -> None: ...


class UnwantedStepError(Exception):
    """Nobody needs the step any more. What it has written counts for nothing."""


class _Heeding:
    """Attention that asks before each layer whether the step is still wanted."""

    def __init__(self, attention: AttentionBackend, unwanted: Callable[[], bool]) -> None:
        self._attention = attention
        self._unwanted = unwanted

    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        self._heed()
        return self._attention(layer, q, k, v)

    def keep(self, layer: int, k: Tensor, v: Tensor) -> None:
        self._heed()
        self._attention.keep(layer, k, v)

    def _heed(self) -> None:
        if self._unwanted():
            raise UnwantedStepError


def can_give_up(decoder: LanguageModel, device: torch.device) -> bool:
    """Whether a step can end between two layers: where the host waits for each of them, and nothing but KV is left."""
    return device.type == "cpu" and not decoder.stateful


class Runner:
    """The model with its attention.

    Args:
        small_steps: asked first; None if there is no quicker way.
        others: are told of all steps, `small_steps` sees to its own; None if the model is all here.

    Attributes:
        device: the one that computes.
        unwanted: whether nobody needs a step of these rows any more. Is asked between layers, where that is possible
            (see `can_give_up`) and this process computes alone.
    """

    def __init__(
        self,
        decoder: LanguageModel,
        attention: AttentionBackend,
        device: torch.device,
        small_steps: SmallSteps | None = None,
        others: OtherRanks | None = None,
    ) -> None:
        self._decoder = decoder
        self._attention = attention
        self.device = device
        self._small_steps = small_steps
        self._others = others
        self.unwanted: Callable[[Sequence[StepRow]], bool] = lambda rows: False

    @torch.inference_mode()
    def run(self, rows: Sequence[StepRow]) -> tuple[Tensor | None, list[RowResult]]:
        """Compute the rows' KV. When it returns the device is done with the step.

        Rows of a stateful model are computed one after the other, each going on from its `row.state`; no row may then
        go on from another one of the same step.

        Returns:
            Logits behind each row's last `samples` tokens in row order, float32 [Σ samples, vocab], or None if none are
            wanted; and what is left of each row.

        Raises:
            UnwantedStepError: it was given up.
        """
        with nullcontext() if self._others is None else self._others.step():
            return self._run(rows, _sampled(rows))

    def close(self) -> None:
        """Give back what was made ready for it. No step may be under way."""
        if self._small_steps is not None:
            self._small_steps.release()

    def _run(self, rows: Sequence[StepRow], wanted: NDArray[np.int64]) -> tuple[Tensor | None, list[RowResult]]:
        computed = self._small_steps.run(rows, wanted.tolist()) if self._small_steps else None
        logits, results = computed if computed is not None else self._usual(rows, wanted)
        if len(wanted):
            return logits, results
        if self.device.type == "cuda":
            # a step's time is then its own, and a question never waits for a queue of them
            torch.cuda.synchronize(self.device)
        return None, results

    def _usual(self, rows: Sequence[StepRow], wanted: NDArray[np.int64]) -> tuple[Tensor | None, list[RowResult]]:
        hidden, results = self._stateful(rows) if self._decoder.stateful else self._together(rows, wanted)
        return self._decoder.logits(hidden[wanted]) if hidden is not None and len(wanted) else None, results

    def _together(self, rows: Sequence[StepRow], wanted: NDArray[np.int64]) -> tuple[Tensor | None, list[RowResult]]:
        """Hidden states of all tokens [T, hidden] if any are wanted, all rows in one pass."""
        self._attention.plan([row.row for row in rows])
        inputs = _inputs(rows)
        if self._others is not None:
            self._others.computes(*inputs, wanted)
        tokens, positions = (torch.from_numpy(part).to(self.device) for part in inputs)
        attend: AttendOrKeep = self._attention
        if self._others is None and can_give_up(self._decoder, self.device):
            attend = _Heeding(self._attention, lambda: self.unwanted(rows))
        hidden = None
        if len(wanted):
            hidden = self._decoder.forward(tokens, positions, attend)
        else:
            self._decoder.fill(tokens, positions, attend)
        return hidden, [RowResult(read=read) for read in self._attention.read() or [None] * len(rows)]

    def _stateful(self, rows: Sequence[StepRow]) -> tuple[Tensor, list[RowResult]]:
        """As `_together`, row after row."""
        parts, results = list[Tensor](), list[RowResult]()
        for row in rows:
            ids = torch.from_numpy(row.tokens.astype(np.int64)).to(self.device)
            hidden, state = advance(self._decoder, self._attention, row.row, ids)
            parts.append(hidden)
            results.append(RowResult(state))
        return torch.cat(parts), results


def _inputs(rows: Sequence[StepRow]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Token ids and global positions of all new tokens, int64 [T] each."""
    tokens = np.concatenate([row.tokens for row in rows]).astype(np.int64)
    return tokens, np.concatenate([np.arange(row.row.num_tokens) + row.row.position for row in rows])


def _sampled(rows: Sequence[StepRow]) -> NDArray[np.int64]:
    """Which of the step's tokens, counted over all rows, logits are wanted behind."""
    ends = np.cumsum([len(row.tokens) for row in rows])
    return np.concatenate([np.arange(end - row.samples, end) for end, row in zip(ends, rows, strict=True)])

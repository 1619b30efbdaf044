"""Runner: one step on the device — rows in, logits out. Knows nothing of questions, chunks or priorities."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from engine.attention.base import AttentionBackend, RowResult
from engine.models.advance import advance
from engine.models.language_model import LanguageModel
from engine.runtime.scheduler import StepRow


class Runner:
    """The model with its attention."""

    def __init__(self, decoder: LanguageModel, attention: AttentionBackend, device: torch.device) -> None:
        self._decoder = decoder
        self._attention = attention
        self._device = device

    @torch.inference_mode()
    def run(self, rows: Sequence[StepRow]) -> tuple[Tensor | None, list[RowResult]]:
        """Compute the rows' KV. When it returns the device is done with the step.

        Rows of a stateful model are computed one after the other, each going on from its `row.state`; no row may then
        go on from another one of the same step.

        Returns:
            Logits behind each row's last `samples` tokens in row order, float32 [Σ samples, vocab], or None if none are
            wanted; and what is left of each row.
        """
        hidden, results = self._stateful(rows) if self._decoder.stateful else self._together(rows)
        wanted = _sampled(rows)
        if len(wanted):
            return self._decoder.logits(hidden[wanted]), results
        if self._device.type == "cuda":
            # a step's time is then its own, and a question never waits for a queue of them
            torch.cuda.synchronize(self._device)
        return None, results

    def _together(self, rows: Sequence[StepRow]) -> tuple[Tensor, list[RowResult]]:
        """Hidden states of all tokens [T, hidden], all rows in one pass."""
        self._attention.plan([row.row for row in rows])
        tokens, positions = self._inputs(rows)
        hidden = self._decoder.forward(tokens, positions, self._attention)
        return hidden, [RowResult(read=read) for read in self._attention.read() or [None] * len(rows)]

    def _stateful(self, rows: Sequence[StepRow]) -> tuple[Tensor, list[RowResult]]:
        """As `_together`, row after row."""
        parts, results = list[Tensor](), list[RowResult]()
        for row in rows:
            ids = torch.from_numpy(row.tokens.astype(np.int64)).to(self._device)
            hidden, state = advance(self._decoder, self._attention, row.row, ids)
            parts.append(hidden)
            results.append(RowResult(state))
        return torch.cat(parts), results

    def _inputs(self, rows: Sequence[StepRow]) -> tuple[Tensor, Tensor]:
        """Token ids and global positions of all new tokens, int64 [T] each."""
        tokens = np.concatenate([row.tokens for row in rows]).astype(np.int64)
        positions = np.concatenate([np.arange(row.row.num_tokens) + row.row.position for row in rows])
        return torch.from_numpy(tokens).to(self._device), torch.from_numpy(positions).to(self._device)


def _sampled(rows: Sequence[StepRow]) -> NDArray[np.int64]:
    """Which of the step's tokens, counted over all rows, logits are wanted behind."""
    ends = np.cumsum([len(row.tokens) for row in rows])
    return np.concatenate([np.arange(end - row.samples, end) for end, row in zip(ends, rows, strict=True)])

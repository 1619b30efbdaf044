"""Runner: one step on the device — rows in, logits out. Knows nothing of questions, chunks or priorities."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from engine.attention.base import AttentionBackend
from engine.models.decoder import Decoder
from engine.runtime.scheduler import StepRow


class Runner:
    """The model with its attention."""

    def __init__(self, decoder: Decoder, attention: AttentionBackend, device: torch.device) -> None:
        self._decoder = decoder
        self._attention = attention
        self._device = device

    @torch.inference_mode()
    def run(self, rows: Sequence[StepRow]) -> Tensor | None:
        """Compute the rows' KV; logits of the rows that sample, float32 [n, vocab], or None if none does."""
        tokens = np.concatenate([row.tokens for row in rows]).astype(np.int64)
        self._attention.plan([row.row for row in rows])
        hidden = self._decoder.forward(torch.from_numpy(tokens).to(self._device), self._attention)
        ends = np.cumsum([len(row.tokens) for row in rows]) - 1
        wanted = [int(end) for end, row in zip(ends, rows, strict=True) if row.sample]
        if not wanted:
            return None
        return self._decoder.logits(hidden[wanted])

"""A model over KV that can be edited slot by slot, with attention in its plainest form.

Weights and layers are the engine's decoder; KV, rotation and attention stand here on their own, so that what is found
with them also checks the engine's. Knows nothing of prompts.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from engine.errors import UnsupportedModelError
from engine.models.decoder import Decoder
from engine.models.language_model import LanguageModel

ROWS = 640
"""Queries that attend together; more only take memory."""


@dataclass(frozen=True, eq=False)
class KV:
    """Keys, rotated to their slots, and values: both [layers, kv_heads, slots, head_dim], written in place."""

    keys: Tensor
    values: Tensor

    def copy(self) -> KV:
        return KV(self.keys.clone(), self.values.clone())


class PlainDecoder:
    """A decoder of the Llama family that attends to all before each token; a token's slot is its position.

    Raises:
        UnsupportedModelError: the model is another.
    """

    def __init__(self, model: LanguageModel) -> None:
        plain = isinstance(model, Decoder) and all(s.window is None and s.rotary == 0 for s in model.layers)
        if not isinstance(model, Decoder) or not plain:
            raise UnsupportedModelError("only models of the Llama family whose layers all attend to all tokens will do")
        self._model = model
        self._inverse = torch.tensor(model.config.rope.inverse, dtype=torch.float64, device=model.device)
        self.scale = model.layers[0].scale * model.config.rope.attention_factor**2
        self.num_layers = len(model.layers)
        self.device = model.device

    def empty(self, slots: int) -> KV:
        """KV with room for so many tokens."""
        config = self._model.config
        shape = (self.num_layers, config.num_kv_heads, slots, config.head_dim)
        keys, values = (torch.zeros(shape, dtype=self._model.dtype, device=self.device) for _ in range(2))
        return KV(keys, values)

    def rotate(self, x: Tensor, by: Tensor) -> Tensor:
        """x [..., T, head_dim] turned on by so many positions, int64 [T], which may be negative."""
        angles = by.double()[:, None] * self._inverse
        cos, sin = angles.cos().float(), angles.sin().float()
        a, b = x.float().chunk(2, -1)
        return torch.cat((a * cos - b * sin, b * cos + a * sin), -1).to(x.dtype)

    def run(
        self, ids: Tensor, slots: Tensor, kv: KV, *, bias: Tensor | None = None, paid: Tensor | None = None
    ) -> Tensor:
        """Compute tokens at `slots`, both int64 [T], slots ascending, and write their KV; returns [T, hidden].

        Args:
            bias: float32 [n], added to the scores of slots 0 … n - 1.
            paid: float32 [T, slots]; what each token pays to each slot is added, mean over layers and heads.
        """
        return self._model.forward(ids, slots, _Attention(self, slots, kv, bias, paid))

    def logits(self, hidden: Tensor) -> Tensor:
        """Of hidden states [n, hidden], float32 [n, vocab]."""
        return self._model.logits(hidden)


class _Attention:
    """The attention of one pass (see `Attend`)."""

    def __init__(self, decoder: PlainDecoder, slots: Tensor, kv: KV, bias: Tensor | None, paid: Tensor | None) -> None:
        self._decoder, self._slots, self._kv, self._paid = decoder, slots, kv, paid
        self._seen = int(slots[-1]) + 1
        hidden = torch.arange(self._seen, device=slots.device) > slots[:, None]
        self._mask = torch.zeros(hidden.shape, device=slots.device).masked_fill_(hidden, -math.inf)
        if bias is not None:
            self._mask[:, : len(bias)] += bias

    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        q, k = (self._decoder.rotate(x.transpose(0, 1), self._slots) for x in (q, k))
        keys, values = self._kv.keys[layer], self._kv.values[layer]
        keys.index_copy_(1, self._slots, k)
        values.index_copy_(1, self._slots, v.transpose(0, 1).contiguous())
        mixed = [
            self._mix(first, q[:, first : first + ROWS], keys[:, : self._seen], values[:, : self._seen])
            for first in range(0, len(self._slots), ROWS)
        ]
        return torch.cat(mixed, 1).transpose(0, 1)

    def _mix(self, first: int, q: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """Of q [heads, rows, head_dim], the rows from `first` on: the mean of values [kv_heads, seen, head_dim]."""
        heads, rows, head_dim = q.shape
        scores = torch.matmul(q.reshape(len(keys), -1, head_dim), keys.transpose(1, 2)).view(heads, rows, -1)
        shares = (scores.float() * self._decoder.scale + self._mask[first : first + rows]).softmax(-1)
        if self._paid is not None:
            self._paid[first : first + rows, : self._seen] += shares.mean(0) / self._decoder.num_layers
        return torch.matmul(shares.to(values.dtype).view(len(keys), -1, self._seen), values).view(q.shape)

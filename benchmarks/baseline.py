"""The peer: transformers' own model with a prefix cache, the best that it does with one growing prompt.

The longest common prefix of the last prompt and the next is kept in a DynamicCache and the rest computed, with torch's
scaled-dot-product attention. Knows nothing of the engine.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from transformers import DynamicCache


def common_prefix(one: Sequence[int], other: Sequence[int]) -> int:
    """How many leading tokens are the same."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((index for index, (left, right) in pairs if left != right), min(len(one), len(other)))


class PrefixCachedModel:
    """A transformers model that remembers the KV of what it was last given.

    Attributes:
        computed, reused: tokens of the last prompt.
        logits: behind the last token computed, [vocab].
    """

    def __init__(self, model: Any, device: torch.device) -> None:
        self._model = model
        self._device = device
        self.reset()

    def reset(self) -> None:
        """Forget everything."""
        self._cache: Any = DynamicCache(config=self._model.config)
        self._ids: list[int] = []
        self.computed = self.reused = 0
        self.logits = torch.empty(0)

    def first_token(self, ids: Sequence[int]) -> int:
        """The likeliest token behind the prompt `ids`."""
        # the last token is computed in any case, for its logits
        self.reused = min(common_prefix(self._ids, ids), len(ids) - 1)
        self.computed = len(ids) - self.reused
        if surplus := len(self._ids) - self.reused:
            self._cache.crop(-surplus)
        del self._ids[self.reused :]
        return self._extend(list(ids[self.reused :]))

    def next_token(self, token: int) -> int:
        """The likeliest token behind the prompt and the tokens since, of which `token` is the last."""
        return self._extend([token])

    @torch.inference_mode()
    def _extend(self, ids: list[int]) -> int:
        tokens = torch.tensor([ids], device=self._device)
        output = self._model(tokens, past_key_values=self._cache, use_cache=True, logits_to_keep=1)
        self._ids += ids
        self.logits = output.logits[0, -1]
        return int(self.logits.argmax())

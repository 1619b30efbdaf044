"""What a hybrid model carries from token to token besides KV: the states of its recurrent and convolutional layers.

transformers' own cache, without keys and values: those stay in the engine's pool. Knows no architecture.
"""

from __future__ import annotations

import copy
from typing import Any

from torch import Tensor
from transformers import DynamicCache


class RecurrentState(DynamicCache):  # type: ignore[misc]
    """The states behind `seen` tokens; its attention layers pass keys and values through."""

    def __init__(self, config: Any) -> None:
        super().__init__(config=config)
        self.seen = 0

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        return key_states, value_states

    def get_seq_length(self, layer_idx: int = 0) -> int:
        return self.seen

    def copy(self) -> RecurrentState:
        """A copy that shares no tensor, for a model that writes its states in place."""
        return copy.deepcopy(self)

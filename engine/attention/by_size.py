"""Two backends over one pool: one for steps of few new tokens, the other for steps of many."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from engine.attention.base import AttentionBackend, AttentionRow


class BySize(AttentionBackend):
    """Each step is computed by one of the two.

    Attributes:
        few, many: the backends.
        many_from: new tokens of a step, all rows together, from which on it is `many`'s.
    """

    def __init__(self, few: AttentionBackend, many: AttentionBackend, many_from: int) -> None:
        self.few, self.many, self.many_from = few, many, many_from
        self._planned = few

    def plan(self, rows: Sequence[AttentionRow]) -> None:
        tokens = sum(row.num_tokens for row in rows)
        self._planned = self.few if tokens < self.many_from else self.many
        self._planned.plan(rows)

    def read(self) -> list[NDArray[np.float16] | None]:
        return self._planned.read()

    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return self._planned(layer, q, k, v)

    def keep(self, layer: int, k: Tensor, v: Tensor) -> None:
        self._planned.keep(layer, k, v)

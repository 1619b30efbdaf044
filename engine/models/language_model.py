"""What the engine asks of a model, whether it is the native decoder or transformers' own code.

A model computes hidden states and logits; attention is the caller's, layer by layer, as each layer's spec says. Knows
nothing of KV, blocks or prompts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from engine.models.rotary import RotaryTable


@dataclass(frozen=True)
class LayerSpec:
    """How one layer attends.

    Attributes:
        scale: multiplies the scores ⟨q, k⟩.
        rotary: which of the model's rotary tables turns queries and keys; None turns nothing (NoPE layers, and models
            that rotate for themselves).
        window: a query at p sees keys at positions above p - window (itself included); None sees all before it.
        softcap: scores s become softcap · tanh(s / softcap).
        sinks: float32 [heads], a score per head that takes part in the softmax and brings no value.
    """

    num_heads: int
    num_kv_heads: int
    head_dim: int
    scale: float
    rotary: int | None = 0
    window: int | None = None
    softcap: float | None = None
    sinks: Tensor | None = field(default=None, compare=False)


class Attend(Protocol):
    """The attention of one forward pass."""

    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Attend from the T new tokens to all tokens they may see, the new ones included.

        Args:
            q: [T, heads, head_dim], after QK-norm, before RoPE and before the softmax scale.
            k, v: [T, kv_heads, head_dim], likewise; kv head i serves query heads i * group … (i + 1) * group - 1.
                All three may be views of one tensor, with gaps between tokens; they are the callee's to change.

        Returns: [T, heads, head_dim] in q's dtype.
        """


class AttendOrKeep(Attend, Protocol):
    """One that can do without queries."""

    def keep(self, layer: int, k: Tensor, v: Tensor) -> None:
        """Take k and v as a call does, where nobody asks what the new tokens see in this layer."""


class LanguageModel(Protocol):
    """A loaded model. Whoever calls it brings the attention, and `torch.inference_mode`.

    Attributes:
        layers: how each call of the attention attends, in the order of the calls.
        rotary: the tables that the layers' specs name. Twice as long as the model's limit: KV computed near the limit
            may stand at the start of another prompt, and a query near the limit then looks at it from almost two
            limits away.
        max_position: longest sequence, tokens.
        exact_only: why KV can't be used at another position than it was computed at, as what follows a colon in a
            sentence for the user; None if it can.
        stateful: layers other than attention carry state from token to token, so `advance` is the way to run it.
        one_by_one: a state other than None can be gone on from with one token at a time only.
    """

    @property
    def layers(self) -> Sequence[LayerSpec]: ...
    @property
    def rotary(self) -> Sequence[RotaryTable]: ...
    @property
    def max_position(self) -> int: ...
    @property
    def vocab_size(self) -> int: ...
    @property
    def device(self) -> torch.device: ...
    @property
    def dtype(self) -> torch.dtype: ...
    @property
    def exact_only(self) -> str | None: ...
    @property
    def stateful(self) -> bool: ...
    @property
    def one_by_one(self) -> bool: ...

    def forward(self, token_ids: Tensor, positions: Tensor, attend: Attend) -> Tensor:
        """Run the layers over `token_ids` that stand at `positions`, both int64 [T]: hidden states [T, hidden].

        The tokens may belong to several sequences, which only `attend` can tell apart. Not for stateful models.
        """

    def fill(self, token_ids: Tensor, positions: Tensor, attend: AttendOrKeep) -> None:
        """As `forward`, for tokens of which only the KV is wanted."""

    def advance(
        self, token_ids: Tensor, positions: Tensor, attend: Attend, state: object | None
    ) -> tuple[Tensor, object | None]:
        """As `forward`, for T tokens of one sequence that go on from `state`; also returns the state behind them.

        None is the state before the first token. A state is never changed, so it can be kept and gone on from again.
        Models that are not stateful return None.
        """

    def logits(self, hidden: Tensor) -> Tensor:
        """Map hidden states [n, hidden] to float32 logits [n, vocab]."""

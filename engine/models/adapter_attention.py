"""The attention that transformers' modelling code calls: whichever is in force in this thread.

Registered with transformers once, under one name, both as attention and as mask. Knows nothing of models or KV.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Protocol

import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AttentionInterface
from transformers.masking_utils import AttentionMaskInterface

from engine.models.language_model import Attend

NAME = "ctx_lsp"
"""What transformers calls this attention: the `attn_implementation` of a model's config."""

MaskFunction = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
"""Batch, head, query and key indices to a bool tensor: whether that query sees that key."""


class AttentionPass(Protocol):
    """The attention of one forward pass of a transformers model."""

    def attend(self, module: nn.Module, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, options: Any) -> Tensor:
        """One layer. q is [1, heads, T, head_dim], k and v are [1, kv_heads, T, …]; the result [1, T, heads, …]."""

    def mask(self, function: MaskFunction, options: Any) -> Tensor | None:
        """What the layers that use the mask `function` get as their `mask`."""


_in_force: ContextVar[AttentionPass | None] = ContextVar("attention of the transformers models", default=None)


@contextmanager
def in_force(attention: AttentionPass) -> Iterator[None]:
    """`attention` is what models of this implementation call while the block runs."""
    token = _in_force.set(attention)
    try:
        yield
    finally:
        _in_force.reset(token)


class EnginePass:
    """Hands each layer's queries, keys and values to the engine's attention, which knows who sees whom."""

    def __init__(self, attend: Attend) -> None:
        self._attend = attend
        self.calls = 0

    def attend(self, module: nn.Module, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, options: Any) -> Tensor:
        layer, width = self.calls, v.shape[-1]
        self.calls += 1
        if width != k.shape[-1]:  # latent attention has values of another size; the engine's KV has one for both
            v = F.pad(v, (0, k.shape[-1] - width))
        q, k, v = (x[0].transpose(0, 1).to(v.dtype) for x in (q, k, v))
        return self._attend(layer, q, k, v)[None, ..., :width]

    def mask(self, function: MaskFunction, options: Any) -> None:
        return None


def _attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **options: Any
) -> tuple[Tensor, None]:
    attention = _in_force.get()
    assert attention is not None, "a model that was taken over runs inside of in_force() only"
    return attention.attend(module, query, key, value, attention_mask, options), None


def _mask(*, mask_function: MaskFunction, **options: Any) -> Tensor | None:
    attention = _in_force.get()
    # wrappers of a text model prepare masks even where nobody will attend
    return None if attention is None else attention.mask(mask_function, options)


AttentionInterface.register(NAME, _attention)
AttentionMaskInterface.register(NAME, _mask)

"""The engine's attention backends by name, made for a pool. A backend's packages are imported when it is made."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib import import_module

from engine.attention.base import AttentionBackend
from engine.kv.pool import KVPool
from engine.models.language_model import LayerSpec
from engine.models.rotary import RotaryTable

BACKENDS = {
    "torch": ("engine.attention.torch_attention", "TorchAttention"),
    "triton": ("engine.attention.triton_attention", "TritonAttention"),
    "flash": ("engine.attention.flash_attention", "FlashAttention"),
}


def make_backend(name: str, pool: KVPool, rotary: RotaryTable, layers: Sequence[LayerSpec]) -> AttentionBackend:
    """The backend `name` over the pool.

    Raises:
        ImportError: what it needs is not installed.
    """
    module, kind = BACKENDS[name]
    make: Callable[..., AttentionBackend] = getattr(import_module(module), kind)
    return make(pool, (rotary,), layers)

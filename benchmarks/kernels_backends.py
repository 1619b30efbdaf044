"""The engine's attention backends by name, made for a pool. What one needs is imported when it is made."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from engine.attention.base import AttentionBackend
from engine.attention.torch_attention import TorchAttention
from engine.kv.pool import KVPool
from engine.models.language_model import LayerSpec
from engine.models.rotary import RotaryTable

Make = Callable[[KVPool, Sequence[RotaryTable], Sequence[LayerSpec]], AttentionBackend]


def make_backend(name: str, pool: KVPool, rotary: RotaryTable, layers: Sequence[LayerSpec]) -> AttentionBackend:
    """The backend `name` over the pool.

    Raises:
        ImportError: what it needs is not installed.
    """
    return BACKENDS[name](pool, (rotary,), layers)


def _triton(pool: KVPool, rotary: Sequence[RotaryTable], layers: Sequence[LayerSpec]) -> AttentionBackend:
    from engine.attention.triton_attention import TritonAttention

    return TritonAttention(pool, rotary, layers)


def _flash(pool: KVPool, rotary: Sequence[RotaryTable], layers: Sequence[LayerSpec]) -> AttentionBackend:
    from engine.attention.flash_api import find_flash
    from engine.attention.flash_attention import FlashAttention

    api = find_flash()
    if api is None:
        raise ImportError("flash-attn is not installed")
    return FlashAttention(pool, rotary, layers, api=api)


BACKENDS: dict[str, Make] = {"torch": TorchAttention, "triton": _triton, "flash": _flash}

"""What the device can do at most, measured: bytes copied and bf16 products per second; and the floors that follow.

Knows models only as sizes; no benchmark can be faster than its floor, and its goal is scaled by these ceilings.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from statistics import median

import torch

from benchmarks.clock import timed
from engine.models.decoder_config import DecoderConfig

_REPEAT = 10
_COPIED_BYTES = {"cuda": 4 << 30, "cpu": 64 << 20}
_MATRIX = {"cuda": 8192, "cpu": 512}


@dataclass(frozen=True)
class Ceilings:
    """Bytes read and written per second by a copy within the device's memory; operations per second of `matmul`."""

    copy: float
    matmul: float

    def __str__(self) -> str:
        return f"Ceilings: copy {self.copy / 1e12:.3g} TB/s (read and written), matmul {self.matmul / 1e12:.3g} TFLOP/s"


H200 = Ceilings(copy=4.23e12, matmul=790e12)
"""Of the machine that the goals were set for."""


def measure(device: torch.device, dtype: torch.dtype) -> Ceilings:
    """Measure both; about a second on a GPU, and 8 GiB of its memory."""
    kind = "cuda" if device.type == "cuda" else "cpu"
    found = Ceilings(_copy_speed(device, _COPIED_BYTES[kind]), _matmul_speed(device, dtype, _MATRIX[kind]))
    if device.type == "cuda":
        torch.cuda.empty_cache()
    return found


def _copy_speed(device: torch.device, size: int) -> float:
    source = torch.ones(size, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)

    def copy() -> None:
        target.copy_(source)

    return 2 * size / _seconds(device, copy)


def _matmul_speed(device: torch.device, dtype: torch.dtype, size: int) -> float:
    left, right = (torch.randn(size, size, dtype=dtype, device=device) for _ in range(2))
    product = torch.empty_like(left)

    def multiply() -> None:
        torch.matmul(left, right, out=product)

    return 2 * size**3 / _seconds(device, multiply)


def _seconds(device: torch.device, work: Callable[[], None]) -> float:
    """Seconds that `work` takes, one after the other without waiting in between; the median of a few such rows."""

    def row() -> None:
        for _ in range(_REPEAT):
            work()

    row()
    return median(timed(device, row) / _REPEAT for _ in range(3))


@dataclass(frozen=True)
class Work:
    """What a model of one shape must read and multiply.

    Attributes:
        layer_weights: elements of all the layers' matrices; `head_weights` of the output matrix.
        layers, heads, kv_heads, head_dim: of the attention.
        itemsize: bytes of a weight, and of an element of the KV.
        packed_bytes: of all matrices together as decoding reads them, where these are others; 0 where they are not.
    """

    layer_weights: int
    head_weights: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    itemsize: int
    packed_bytes: int = 0

    @staticmethod
    def of(config: DecoderConfig, dtype: torch.dtype, packed_bytes: int = 0) -> Work:
        heads, hidden = config.num_heads, config.hidden_size
        attention = hidden * config.head_dim * (2 * heads + 2 * config.num_kv_heads)
        return Work(
            layer_weights=config.num_layers * (attention + 3 * hidden * config.intermediate_size),
            head_weights=hidden * config.vocab_size,
            layers=config.num_layers,
            heads=heads,
            kv_heads=config.num_kv_heads,
            head_dim=config.head_dim,
            itemsize=dtype.itemsize,
            packed_bytes=packed_bytes,
        )

    def kv_bytes(self, tokens: int) -> int:
        """Bytes of KV that so many tokens have."""
        return 2 * self.layers * self.kv_heads * self.head_dim * self.itemsize * tokens

    def decode_bytes(self, context: int, answers: int = 1) -> int:
        """Bytes that the next token of `answers` answers over `context` tokens each has to read."""
        return (self.packed_bytes or self._dense_bytes) + answers * self.kv_bytes(context)

    @property
    def _dense_bytes(self) -> int:
        return (self.layer_weights + self.head_weights) * self.itemsize

    def prefill_flops(self, new: int, before: int = 0) -> int:
        """Operations for `new` tokens behind `before` others: matrices, causal attention, the last token's logits."""
        pairs = new * before + new * (new + 1) // 2
        attention = 4 * self.layers * self.heads * self.head_dim * pairs
        return 2 * self.layer_weights * new + attention + 2 * self.head_weights

    def decode_floor(self, ceilings: Ceilings, context: int, answers: int = 1) -> float:
        """Seconds per token if all were read at the speed of a copy."""
        return self.decode_bytes(context, answers) / ceilings.copy

    def prefill_floor(self, ceilings: Ceilings, new: int, before: int = 0) -> float:
        """Seconds if all were multiplied as fast as large matrices are, or at least what must be read once read."""
        reading = (self._dense_bytes + self.kv_bytes(before)) / ceilings.copy
        return max(self.prefill_flops(new, before) / ceilings.matmul, reading)

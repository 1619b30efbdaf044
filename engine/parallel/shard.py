"""Which part of a decoder's weights a rank holds. Knows nothing of processes, nor of where weights come from.

Rows of the query, key, value, gate and up projections are parted, and columns of those that bring their results back
together; so a rank has whole heads, and the same number of each kind as every other rank.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from engine.errors import UnsupportedModelError
from engine.models.decoder_config import DecoderConfig


@dataclass(frozen=True)
class Shard:
    """Part `rank` of `size`."""

    rank: int = 0
    size: int = 1

    def part(self, count: int) -> slice:
        """Which of `count` rows or columns are this rank's; the parts of all ranks differ by at most one."""
        return slice(self.rank * count // self.size, (self.rank + 1) * count // self.size)

    def config(self, whole: DecoderConfig) -> DecoderConfig:
        """The config of this rank's layers; vocabulary and hidden size are the whole model's.

        Raises:
            UnsupportedModelError: heads or inner columns can't be dealt out evenly.
        """
        if self.size == 1:
            return whole
        parted = {name: getattr(whole, name) for name in ("num_heads", "num_kv_heads", "intermediate_size")}
        uneven = [f"{name} {count}" for name, count in parted.items() if count % self.size]
        if uneven:
            raise UnsupportedModelError(
                f"tensor_parallel_size {self.size} does not divide the model's {', '.join(uneven)}; take one that does"
            )
        heads, kv_heads, inner = (count // self.size for count in parted.values())
        layers = tuple(replace(layer, num_heads=heads, num_kv_heads=kv_heads) for layer in whole.layers)
        return replace(whole, num_heads=heads, num_kv_heads=kv_heads, intermediate_size=inner, layers=layers)


WHOLE = Shard()

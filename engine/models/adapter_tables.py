"""From a rotary module to a table: cosines and sines of all positions, proven to be those of one steady rotation.

KV is used again at other positions, and that is sound only if each pair of dims turns by the same angle with each
position, however long the text is. Knows nothing of layers.
"""

from __future__ import annotations

import torch
from torch import Tensor

from engine.models.adapter_rotary import NotUnderstood, Source
from engine.models.rotary import Pairing, RotaryTable

_PAIRS_TRIED = 64


def read_table(source: Source, pairing: Pairing, length: int, device: torch.device) -> RotaryTable:
    """The table of positions 0 … length - 1.

    Raises:
        NotUnderstood: it is not a rotation that depends on the position alone.
    """
    cos, sin = source.at(torch.arange(length, device=device))
    for position in (1, length // 4, length // 2 - 1, length - 1):
        alone = source.at(torch.tensor([position], device=device))
        if not _same(alone, (cos[position : position + 1], sin[position : position + 1]), position):
            raise NotUnderstood("its RoPE frequencies depend on the length of the text")
    cos, sin, pairing = _one_column_per_pair(cos, sin, pairing)
    if not _turns_steadily(cos, sin):
        raise NotUnderstood("its rotary embedding does not turn by the same angle with each position")
    return RotaryTable(cos, sin, pairing)


def steady_length(source: Source, limit: int, device: torch.device) -> int:
    """The longest text up to `limit` whose first positions are rotated as those of the shortest one are."""

    def first(length: int) -> tuple[Tensor, Tensor]:
        return source.at(torch.tensor([1, length - 1], device=device))

    shortest = first(2)
    steady, unsteady = 2, limit + 1
    while unsteady - steady > 1:
        middle = (steady + unsteady) // 2
        cos, sin = first(middle)
        if _same((cos[:1], sin[:1]), (shortest[0][:1], shortest[1][:1]), 1):
            steady = middle
        else:
            unsteady = middle
    first(2)  # a module that keeps the frequencies of the longest text goes back to those of the shortest
    return steady


def _same(one: tuple[Tensor, Tensor], other: tuple[Tensor, Tensor], position: int) -> bool:
    tolerance = 1e-5 + 1e-6 * position
    return all(torch.allclose(a, b, atol=tolerance, rtol=0) for a, b in zip(one, other, strict=True))


def _one_column_per_pair(cos: Tensor, sin: Tensor, pairing: Pairing) -> tuple[Tensor, Tensor, Pairing]:
    """Both dims of a pair turn by the same angle: keep one column for the two."""
    columns: list[int] = []
    kept: list[int | None] = []
    for dim, (column, partner) in enumerate(zip(pairing.column, pairing.partner, strict=True)):
        other = pairing.column[partner]
        if column is None or other is None:
            kept.append(None)
        elif partner < dim:
            kept.append(kept[partner])
        else:
            kept.append(len(columns))
            columns.append(column)
            if not (torch.equal(cos[:, column], cos[:, other]) and torch.equal(sin[:, column], sin[:, other])):
                raise NotUnderstood("its rotary embedding turns the two dims of a pair differently")
    return cos[:, columns], sin[:, columns], Pairing(tuple(kept), pairing.partner, pairing.sign)


def _turns_steadily(cos: Tensor, sin: Tensor) -> bool:
    """Whether turning by p and then by q is turning by p + q, tried for some p and q from all over the table.

    Angles are float32 products, so their error grows with the position.
    """
    generator = torch.Generator().manual_seed(0)
    half = max(1, len(cos) // 2)
    p, q = torch.randint(half, (2, _PAIRS_TRIED), generator=generator).to(cos.device)
    turned = torch.complex(cos, sin)
    size = turned[0].abs()
    error = (turned[p] * turned[q] - size * turned[p + q]).abs() / size**2
    return bool((error <= 1e-4 + 1e-6 * (p + q)[:, None]).all())

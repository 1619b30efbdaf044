"""How the kernels of one row are launched, by the shape of the matrix: found with `benchmarks.kernels_linear`.

A rule, because trying would happen while a user waits. Knows nothing of devices or Triton.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class RowLaunch:
    """One program multiplies `rows` rows, `columns` elements of each at a time, with `warps` warps."""

    rows: int
    columns: int
    warps: int


def row_launch(outputs: int, inputs: int) -> RowLaunch:
    """For a matrix [outputs, inputs]."""
    rows = 4 if outputs >= 4096 else 2 if outputs >= 2048 else 1
    columns = min(1024, 1 << max(5, (inputs - 1).bit_length()))
    return RowLaunch(rows, columns, 4 if columns >= 512 else 1)

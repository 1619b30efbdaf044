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
    rows = 4 if outputs >= 3072 else 2 if outputs >= 1536 else 1
    # of many rows two warps each have as much under way as four of fewer
    most, warps = (512, 2) if outputs > inputs else (1024, 4)
    columns = min(most, 1 << max(5, (inputs - 1).bit_length()))
    return RowLaunch(rows, columns, warps if columns >= 512 else 1)

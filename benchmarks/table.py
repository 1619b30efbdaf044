"""Tables as text, and figures as they stand in them. Knows nothing of what is measured."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence


def milliseconds(seconds: float | None) -> str:
    """Milliseconds with three digits or more."""
    if seconds is None:
        return ""
    return f"{seconds * 1e3:,.0f}" if seconds >= 0.0995 else f"{seconds * 1e3:.3g}"


def layout(lines: Sequence[Sequence[str]], left: Collection[int]) -> str:
    """The lines with columns of one width each, those in `left` flush left."""
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if column in left else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )


def percentile(values: Collection[float], share: float) -> float:
    """The smallest of the values that at least `share` of them don't exceed."""
    ranked = sorted(values)
    return ranked[max(0, math.ceil(share * len(ranked)) - 1)]

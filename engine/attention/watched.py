"""Which layers note what their tokens read: see `RowResult.read`."""

from __future__ import annotations

_FROM, _EVERY = 2, 4


def watched_layers(count: int) -> range:
    """Of `count` layers some: more would only cost time, and the first two look at everything alike.

    Never the last, since what its tokens read is in nobody's KV.
    """
    return range(min(_FROM, max(0, count - 2)), count - 1, _EVERY)

"""Forecast: how long a prefill will take on this device, learned from the steps it has computed.

A step's time is taken as a·1 + b·tokens + c·pairs, pairs being what attention compares: exact in form for a device
that is busy computing, and good enough for one that reads weights. Knows nothing of questions or chunks.
"""

from __future__ import annotations

import json
import logging
import math
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

logger = logging.getLogger(__name__)

_KEPT_PER_SIZE = 24
_OUTLIER = 0.25
"""Observations that are off by more than this share count less: the device was busy with something else."""

_SUBSETS = ([0, 1, 2], [0, 1], [0, 2], [1, 2], [0], [1], [2])


@dataclass(frozen=True)
class Work:
    """`tokens` to be computed in a row, the first at global `position`."""

    position: int
    tokens: int

    @property
    def pairs(self) -> float:
        """Pairs of tokens that attention compares."""
        return self.tokens * (self.position + (self.tokens + 1) / 2)


class Forecast:
    """Observed steps, some of every size so that none crowds out the others, and the times fitted to them.

    Invariants: the fitted times are never negative; of each size (a power of two of tokens) few observations are kept.

    Attributes:
        observations: how many steps were observed since the start.
    """

    def __init__(self, slice_tokens: int) -> None:
        self._slice_tokens = slice_tokens
        self._observed: dict[int, deque[tuple[float, float, float]]] = {}
        self._times: NDArray[np.float64] | None = None
        self.observations = 0

    def observe(self, work: Iterable[Work], seconds: float) -> None:
        """A step that computed `work` has taken so long."""
        items = list(work)
        tokens, pairs = sum(item.tokens for item in items), sum(item.pairs for item in items)
        self.observations += self._keep(tokens, pairs, seconds)

    def _keep(self, tokens: float, pairs: float, seconds: float) -> bool:
        """Add an observation, if it can be one; the oldest of its size goes when there are many."""
        if not (1 <= tokens < math.inf and 0 < pairs < math.inf and 0 < seconds < math.inf):
            return False
        size = int(math.log2(tokens))
        self._observed.setdefault(size, deque(maxlen=_KEPT_PER_SIZE)).append((tokens, pairs, seconds))
        self._times = None
        return True

    def seconds(self, work: Sequence[Work]) -> float | None:
        """Predicted time of a prefill in slices; None before anything was observed."""
        if not self._observed:
            return None
        if self._times is None:
            self._times = _fit([row for rows in self._observed.values() for row in rows])
        tokens = sum(item.tokens for item in work)
        features = (-(-tokens // self._slice_tokens), tokens, sum(item.pairs for item in work))
        return float(np.dot(features, self._times))

    # -- between runs ----------------------------------------------------------------------------------------------

    def load(self, path: Path) -> None:
        """Begin with what an earlier run observed; a file that is missing or damaged is as good as none."""
        try:
            for tokens, pairs, seconds in json.loads(path.read_text(encoding="utf-8")):
                self._keep(float(tokens), float(pairs), float(seconds))
        except FileNotFoundError:
            return
        except (OSError, ValueError, TypeError, OverflowError) as error:
            logger.warning("%s can't be read and is begun anew: %s", path, error)

    def save(self, path: Path) -> None:
        """Keep what was observed for the next run; losing it is no harm, so errors are only logged."""
        rows = [row for rows in self._observed.values() for row in rows]
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            draft = path.with_suffix(".part")
            draft.write_text(json.dumps(rows), encoding="utf-8")
            draft.replace(path)
        except OSError as error:
            logger.warning("%s can't be written: %s", path, error)


def _fit(rows: Sequence[tuple[float, float, float]]) -> NDArray[np.float64]:
    """Times per step, token and pair, none negative, that leave the least relative error over (tokens, pairs, seconds).

    Least squares on relative errors; what fits badly at first counts less the second time.
    """
    table = np.array(rows, dtype=np.float64)
    seconds = table[:, 2:]
    features = np.column_stack((np.ones(len(table)), table[:, 0], table[:, 1])) / seconds
    weights = np.ones(len(table))
    times = np.zeros(3)
    for _ in range(3):
        times = _least_squares(features * weights[:, None], weights)
        errors = np.abs(features @ times - 1)
        weights = np.minimum(1.0, _OUTLIER / np.maximum(errors, 1e-9))
    return times


def _least_squares(features: NDArray[np.float64], target: NDArray[np.float64]) -> NDArray[np.float64]:
    """x ≥ 0 that leaves the least of |features · x − target|, features [n, 3], target [n].

    A term that would come out negative is left out: if need be all subsets are tried, since there are only seven.
    """
    best, least = np.zeros(3), math.inf
    for chosen in _SUBSETS:
        columns = features[:, chosen]
        scale = np.maximum(np.linalg.norm(columns, axis=0), 1e-30)
        found = np.linalg.lstsq(columns / scale, target, rcond=None)[0] / scale
        error = float(np.sum((columns @ found - target) ** 2))
        if (found >= 0).all() and error < least:
            best, least = np.zeros(3), error
            best[chosen] = found
            if len(chosen) == 3:
                break  # leaving terms out can't make it better
    return best

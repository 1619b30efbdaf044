"""Forecast: how long a prefill will take on this device, learned from the steps it has computed.

A step's time is taken as a·1 + b·rows + c·tokens + d·pairs: reading weights, launching attention for each row, the
layers, and what attention compares. Knows nothing of questions or chunks.
"""

from __future__ import annotations

import bisect
import json
import logging
import math
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from engine.runtime.slices import Slices

logger = logging.getLogger(__name__)

_KEPT_PER_SIZE = 24
_REFIT = 16
"""Share of observations, as one in so many, that must be new before times are fitted anew."""
_MOST_FORESEEN = 1 << 20
_BEYOND = 2
"""Times the largest step observed, up to which the time of a single step is foretold."""
_BY_WEIGHT = (2, 0, 1, 3)
"""The terms' columns (step, row, token, pair), what a prefill's time depends on most first."""
_OUTLIER = 0.25
"""Observations that are off by more than this share count less: the device was busy with something else."""

Step = tuple[float, float, float, float]
"""Rows, tokens, pairs and seconds of an observed step."""


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
        slices: the sizes of steps that prefills are cut into.
    """

    def __init__(self, slice_tokens: int | None = None, *, interruptible: bool = False) -> None:
        """`slice_tokens`: of all prefills; None sizes slices by the times that are foretold, see `Slices`."""
        self.slices = Slices(self.step_tokens, slice_tokens, interruptible=interruptible)
        self._observed: dict[int, deque[Step]] = {}
        self._times = np.zeros(4)
        self._unfitted = 0
        self.observations = 0

    def observe(self, work: Iterable[Work], seconds: float) -> None:
        """A step that computed `work` has taken so long."""
        items = list(work)
        tokens, pairs = sum(item.tokens for item in items), sum(item.pairs for item in items)
        self.observations += self._keep((len(items), tokens, pairs, seconds))

    def _keep(self, step: Step) -> bool:
        """Add an observation, if it can be one; the oldest of its size goes when there are many."""
        rows, tokens, _, _ = step
        if not (1 <= rows <= tokens and all(0 < value < math.inf for value in step)):
            return False
        self._observed.setdefault(int(math.log2(tokens)), deque(maxlen=_KEPT_PER_SIZE)).append(step)
        self._unfitted += 1
        return True

    def _fitted(self) -> NDArray[np.float64]:
        """Times per step, row, token and pair; of many observations a few new ones change little and can wait."""
        kept = sum(map(len, self._observed.values()))
        if self._unfitted * _REFIT >= kept:
            self._times = _fit([step for steps in self._observed.values() for step in steps])
            self._unfitted = 0
        return self._times

    def seconds(self, work: Sequence[Work]) -> float | None:
        """Predicted time of a prefill in slices with nothing beside it; None before anything was observed."""
        if not self._observed:
            return None
        if not work:
            return 0.0
        tokens = sum(item.tokens for item in work)
        # slices are smallest at the end; most ends of theirs fall within an item, which then is one row more
        steps = -(-tokens // self.slices.alone(max(item.position + item.tokens for item in work)))
        features = (steps, len(work) + steps - 1, tokens, sum(item.pairs for item in work))
        return float(np.dot(features, self._fitted()))

    def step_tokens(self, seconds: float, position: int) -> int | None:
        """How many tokens one step of a single row computes in that time at `position`; None if nothing was observed.

        At most twice as many as the largest step observed: times beyond are anybody's guess.
        """
        if not self._observed:
            return None
        per_step, per_row, per_token, per_pair = (float(time) for time in self._fitted())
        most = _BEYOND * int(max(tokens for _, tokens, _, _ in self._observed[max(self._observed)]))
        left = seconds - per_step - per_row
        linear, square = per_token + per_pair * (position + 0.5), per_pair / 2
        if left <= 0:
            return 0
        # square · n² + linear · n = left, solved so that neither may be zero or small
        slope = linear + math.sqrt(linear**2 + 4 * square * left)
        return min(most, int(2 * left / slope)) if slope * most > 2 * left else most

    def tokens_within(self, seconds: float, position: int) -> int:
        """How many tokens can be computed in that time at `position`; 0 before anything was observed."""
        if not self._observed:
            return 0
        counts = range(1, _MOST_FORESEEN)
        return bisect.bisect_right(counts, seconds, key=lambda count: self.seconds([Work(position, count)]) or 0.0)

    # -- between runs ----------------------------------------------------------------------------------------------

    def load(self, path: Path) -> None:
        """Begin with what an earlier run observed; a file that is missing or damaged is as good as none."""
        try:
            for rows, tokens, pairs, seconds in json.loads(path.read_text(encoding="utf-8")):
                self._keep((float(rows), float(tokens), float(pairs), float(seconds)))
        except FileNotFoundError:
            return
        except (OSError, ValueError, TypeError, OverflowError) as error:
            logger.warning("%s can't be read and is begun anew: %s", path, error)

    def save(self, path: Path) -> None:
        """Keep what was observed for the next run; losing it is no harm, so errors are only logged."""
        steps = [step for steps in self._observed.values() for step in steps]
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            draft = path.with_suffix(".part")
            draft.write_text(json.dumps(steps), encoding="utf-8")
            draft.replace(path)
        except OSError as error:
            logger.warning("%s can't be written: %s", path, error)


def _fit(steps: Sequence[Step]) -> NDArray[np.float64]:
    """Times per step, row, token and pair, none negative, that leave the least relative error.

    Least squares on relative errors; what fits badly at first counts less the second time.
    """
    table = np.array(steps, dtype=np.float64)
    features = np.column_stack((np.ones(len(table)), table[:, :3])) / table[:, 3:]
    weights = np.ones(len(table))
    times = np.zeros(features.shape[1])
    for _ in range(3):
        times = _least_squares(features * weights[:, None], weights)
        errors = np.abs(features @ times - 1)
        weights = np.minimum(1.0, _OUTLIER / np.maximum(errors, 1e-9))
    return times


def _least_squares(features: NDArray[np.float64], target: NDArray[np.float64]) -> NDArray[np.float64]:
    """x ≥ 0 that leaves little of |features · x − target|; features [n, terms] and target [n] are positive.

    Terms that come out negative are left out, the most negative first: all but the same as the best such x, and quick.
    Of fewer steps than terms only the first of `_BY_WEIGHT` are asked for: the rest would be guessed, and pairs guessed
    from a short step are hours for a long prompt.
    """
    scaled = features / (scale := np.linalg.norm(features, axis=0))
    chosen = sorted(_BY_WEIGHT[: len(features)])
    while (found := np.linalg.lstsq(scaled[:, chosen], target, rcond=None)[0]).min() < 0:
        del chosen[int(found.argmin())]
    best = np.zeros(features.shape[1])
    best[chosen] = found / scale[chosen]
    return best

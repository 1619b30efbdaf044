"""Makes the stepper of a decoder, with as many threads as make it quicker on this machine."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

import numpy as np
import torch

from engine.kv.pool import KVPool
from engine.models.decoder import Decoder
from engine.native.abi import MOST_TOKENS
from engine.native.library import load_library
from engine.native.stepper import StepArrays, Stepper, unfit
from engine.native.threads import CROWDED

logger = logging.getLogger(__name__)

_WORTH = 0.95
"""More threads are taken if a step then takes less than this share of the time."""
_TRIALS = 3
_MOST_DENSE = 8
_MOST_BESIDE_AMX = 24
"""Where torch multiplies bfloat16 by AMX: more would be quicker with little context, fewer with a long one."""


def most_tokens(decoder: Decoder) -> int:
    """Up to how many tokens a step was quicker by the stepper than in torch, on the CPU of docs/benchmarks.md."""
    if not decoder.packed:
        return _MOST_DENSE
    amx = decoder.dtype == torch.bfloat16 and torch.cpu._is_amx_tile_supported()
    return _MOST_BESIDE_AMX if amx else MOST_TOKENS


def prepare_stepper(decoder: Decoder, pool: KVPool) -> Stepper | None:
    """The stepper of `decoder` over `pool`, of which nothing may be in use yet; None if there can be none."""
    library = load_library()
    problem = "no library was built for this processor" if library is None else unfit(decoder, pool)
    if library is None or problem is not None:
        logger.info("small steps are computed in torch: %s", problem)
        return None
    stepper = Stepper(library, decoder, pool, decoder.packed, torch.get_num_threads())
    stepper.threads = quickest(stepper)
    logger.info("small steps are computed with %d of %d threads", stepper.threads, torch.get_num_threads())
    return stepper


def quickest(stepper: Stepper, clock: Callable[[], float] = time.perf_counter) -> int:
    """The least number of threads that more hardly improve on. Reading memory keeps few of them waiting for it.

    What threads are worth that others crowd out meanwhile can't be told, and `Threads` does without them as long as
    they are: they count as worth it.
    """
    most, best = stepper.threads, 1
    if most == 1:
        return 1
    _trial(stepper, most, clock)  # brings the weights into memory
    least, _ = _trial(stepper, 1, clock)
    for threads in sorted({*(1 << power for power in range(1, most.bit_length())), most}):
        seconds, kept = _trial(stepper, threads, clock)
        if kept > CROWDED or seconds < _WORTH * least:
            best, least = threads, min(least, seconds)
    return best


def _trial(stepper: Stepper, threads: int, clock: Callable[[], float]) -> tuple[float, float]:
    """Seconds of a step of one token without context, in the first slot of the pool, and `Stepper.kept` of it.

    The quickest of some.
    """
    stepper.threads = threads
    none, zero = np.zeros(0, dtype=np.int32), np.zeros(1, dtype=np.int32)
    rows, runs = np.array([[0, 1, 0, 1]], dtype=np.int32), np.array([[0, 1, 0, 0]], dtype=np.int32)
    trials = list[tuple[float, float]]()
    for _ in range(_TRIALS):
        begun = clock()
        stepper.step(StepArrays(zero, zero, zero, rows, runs, none, none))
        trials.append((clock() - begun, stepper.kept))
    return min(trials)

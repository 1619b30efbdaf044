"""Where the engine's time to the first token goes: seconds per stage of its work, measured from inside.

The device is waited for around every stage, so on a GPU the sum is more than the undisturbed time.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from benchmarks.clock import timed
from engine import Engine

STAGES = ("plan", "attention", "other layers", "logits", "sampling", "rest of steps", "between steps")
"""plan: laying out a step for attention on the host. rest of steps: getting tokens to the device and rows from it.
between steps: building the prompt, scheduling, waking threads."""


class StageTimes:
    """Seconds per stage and number of steps since the last `take`."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._spent: defaultdict[str, float] = defaultdict(float)
        self._steps = 0

    def add(self, stage: str, work: Callable[[], Any]) -> Any:
        """Do `work` and note how long it takes."""
        result: list[Any] = []
        self._spent[stage] += timed(self._device, lambda: result.append(work()))
        self._steps += stage == "step"
        return result[0]

    def take(self, total: float) -> dict[str, float]:
        """Seconds of each of `STAGES` within `total` seconds, and ``steps``; starts anew."""
        spent, steps = self._spent, self._steps
        self._spent, self._steps = defaultdict(float), 0
        inside = {name: spent[name] for name in ("plan", "attention", "logits", "sampling")}
        inside["other layers"] = spent["layers"] - spent["attention"]
        inside["rest of steps"] = spent["step"] - spent["plan"] - spent["layers"] - spent["logits"]
        inside["between steps"] = total - spent["step"] - spent["sampling"]
        return {**{stage: inside[stage] for stage in STAGES}, "steps": steps}


@contextmanager
def stage_times(engine: Engine, device: torch.device) -> Iterator[StageTimes]:
    """Time the engine's stages while the block runs."""
    times = StageTimes(device)
    worker = engine._worker
    runner = worker._runner
    decoder, attention = runner._decoder, runner._attention
    forward = decoder.forward

    def timed_forward(token_ids: Tensor, positions: Tensor, attend: Any) -> Any:
        return times.add("layers", lambda: forward(token_ids, positions, _noting(times, "attention", attend)))

    patches: list[tuple[Any, str, Any]] = [
        (runner, "run", _noting(times, "step", runner.run)),
        (attention, "plan", _noting(times, "plan", attention.plan)),
        (decoder, "forward", timed_forward),
        (decoder, "logits", _noting(times, "logits", decoder.logits)),
        (worker._sampler, "sample", _noting(times, "sampling", worker._sampler.sample)),
    ]
    for owner, name, replacement in patches:
        setattr(owner, name, replacement)
    try:
        yield times
    finally:
        for owner, name, _ in patches:
            delattr(owner, name)


def _noting(times: StageTimes, stage: str, method: Callable[..., Any]) -> Callable[..., Any]:
    return lambda *arguments: times.add(stage, lambda: method(*arguments))

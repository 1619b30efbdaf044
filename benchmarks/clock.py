"""Timing: wall and CPU seconds of a block, with the device's work in them. Knows nothing of what is timed."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch


def finish_work(device: torch.device) -> None:
    """Wait until the device has done all it was given; at once on a CPU."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


class Clock:
    """Starts when it is made, once the device is idle.

    Attributes:
        seconds: wall time up to the last `stop`.
        cpu_seconds: CPU time of all of the process's threads in it. On a CPU it says what the work costs even when
            other programs share the machine, as long as torch computes with one thread: several spin while they wait.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        finish_work(device)
        self._start, self._cpu_start = time.perf_counter(), time.process_time()
        self.seconds = self.cpu_seconds = 0.0

    def stop(self) -> float:
        """The seconds so far, with all that the device was given until now."""
        finish_work(self._device)
        self.seconds, self.cpu_seconds = time.perf_counter() - self._start, time.process_time() - self._cpu_start
        return self.seconds


def timed(device: torch.device, work: Callable[[], object]) -> float:
    """Seconds that `work` takes."""
    clock = Clock(device)
    work()
    return clock.stop()

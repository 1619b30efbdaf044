"""How long a GPU was at work, by torch's profiler, under which the host is slower."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch.profiler import ProfilerActivity, profile


def busy_seconds(device: torch.device, work: Callable[[], object]) -> float | None:
    """Seconds of kernels and copies on the device during `work`, of whatever thread; None on a CPU."""
    if device.type != "cuda":
        return None
    with profile(activities=[ProfilerActivity.CUDA]) as seen:
        work()
        torch.cuda.synchronize(device)
    return float(sum(event.self_device_time_total for event in seen.key_averages())) / 1e6

"""Device seconds of work that is launched over and over: on a GPU in a captured graph, so that no launch is timed."""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median

import torch

_SAMPLES = 5


def repeated_seconds(device: torch.device, work: Callable[[], object], budget: float = 0.05) -> float:
    """Seconds of one `work`, the median of a few rows of it that take about `budget` seconds each."""
    work()
    if device.type != "cuda":
        return _on_host(work, budget)
    torch.cuda.synchronize(device)
    with torch.cuda.stream(torch.cuda.Stream(device)):  # type: ignore[no-untyped-call]
        work()
        torch.cuda.synchronize(device)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            work()
        once = _row_seconds(graph, 1)
        count = max(1, min(1000, int(budget / max(once, 1e-6))))
        return median(_row_seconds(graph, count) for _ in range(_SAMPLES))


def _row_seconds(graph: torch.cuda.CUDAGraph, count: int) -> float:
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
    start.record()
    for _ in range(count):
        graph.replay()
    end.record()
    end.synchronize()
    return float(start.elapsed_time(end)) / 1e3 / count


def _on_host(work: Callable[[], object], budget: float) -> float:
    times = list[float]()
    end = time.perf_counter() + budget
    while not times or time.perf_counter() < end:
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return median(times)

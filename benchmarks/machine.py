"""What a benchmark ran on, in words that a reader of its figures needs."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from datetime import date
from importlib.metadata import version
from pathlib import Path

import torch


def describe(device: torch.device) -> dict[str, str | int | float]:
    """Date, hardware and versions, JSON-ready. `load` is the mean number of runnable processes of the last minute."""
    return {
        "date": date.today().isoformat(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU",
        "cpu": _cpu_name(),
        "cores": os.cpu_count() or 1,
        "threads": torch.get_num_threads(),
        "load": round(os.getloadavg()[0], 1) if hasattr(os, "getloadavg") else 0.0,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": version("transformers"),
    }


def in_words(described: Mapping[str, str | int | float]) -> str:
    """A description in one line."""
    return ", ".join(f"{name} {value}" for name, value in described.items())


def _cpu_name() -> str:
    """The processor's name as Linux reports it, elsewhere what Python knows."""
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            key, _, value = line.partition(":")
            if key.strip() == "model name":
                return value.strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()

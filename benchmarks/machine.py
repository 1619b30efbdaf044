"""What a benchmark ran on, in words that a reader of its figures needs."""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Mapping
from datetime import date
from importlib.metadata import version
from pathlib import Path

import torch

_CPUINFO = Path("/proc/cpuinfo")
_TELLING = re.compile(r"avx2|avx_vnni|avx512f|avx512_(vnni|bf16|fp16)|amx_\w+|asimddp|i8mm|bf16|sve2?")
"""The instruction sets, as Linux names them, that decide how fast products of matrices are."""


def describe(device: torch.device) -> dict[str, str | int | float]:
    """Date, hardware and versions, JSON-ready. `load` is the mean number of runnable processes of the last minute."""
    return {
        "date": date.today().isoformat(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU",
        "cpu": _cpu_name(),
        "cores": os.cpu_count() or 1,
        "instructions": " ".join(instruction_sets(_cpu_says("flags", "Features"))),
        "threads": torch.get_num_threads(),
        "load": round(os.getloadavg()[0], 1) if hasattr(os, "getloadavg") else 0.0,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": version("transformers"),
    }


def in_words(described: Mapping[str, str | int | float]) -> str:
    """A description in one line."""
    return ", ".join(f"{name} {value}" for name, value in described.items())


def instruction_sets(flags: str) -> list[str]:
    """Of all that a processor has those that a reader of figures asks for."""
    return [flag for flag in flags.split() if _TELLING.fullmatch(flag)]


def _cpu_name() -> str:
    """The processor's name as Linux reports it, elsewhere what Python knows."""
    return _cpu_says("model name") or platform.processor() or platform.machine()


def _cpu_says(*keys: str) -> str:
    """What Linux reports of the first processor under one of these keys; nothing where it doesn't, or isn't Linux."""
    try:
        lines = _CPUINFO.read_text(encoding="utf-8").splitlines()
    except OSError:
        return ""
    pairs = (line.partition(":") for line in lines)
    return next((value.strip() for key, _, value in pairs if key.strip() in keys), "")

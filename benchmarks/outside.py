"""Peers in a process of their own, with a time limit: what they compile or break stays there.

Such a process prints a JSON object per line as soon as it has measured something. Knows nothing of what is measured.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any


def run_outside(
    module: str, arguments: Sequence[str], limit: float, python: str | Path = sys.executable
) -> tuple[list[dict[str, Any]], str | None]:
    """What `python -m module` printed within `limit` seconds, and what ended it early, if anything did."""
    with tempfile.TemporaryFile("w+", encoding="utf-8") as output, tempfile.TemporaryFile("w+") as errors:
        try:
            process = subprocess.Popen([python, "-m", module, *arguments], stdout=output, stderr=errors)
        except OSError as error:
            return [], f"can't be started: {error}"
        problem = _wait(process, limit)
        output.seek(0)
        errors.seek(0)
        found = [json.loads(line) for line in output if line.startswith("{") and line.endswith("}\n")]
        last = (errors.read().strip().splitlines() or [""])[-1]
    return found, f"{problem}: {last[:300]}" if problem and last else problem


def _wait(process: subprocess.Popen[bytes], limit: float) -> str | None:
    try:
        status = process.wait(limit)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        return f"stopped after {limit:.0f} s"
    return f"ended with status {status}" if status else None

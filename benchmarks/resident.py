"""How much memory a process holds, as Linux counts it. Knows nothing of what the process does."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Resident:
    """Bytes of memory that a process has in use.

    Attributes:
        now: all of it: its own, and what it reads of files.
        peak: the most it ever was.
        private: what no other process uses. Pages of a file that no one else has open are among it.
        anonymous: the process's own: what ends with it, and can't be dropped and read again from a file.
    """

    now: int
    peak: int
    private: int
    anonymous: int


def resident(pid: int) -> Resident:
    """Raises OSError where there is no /proc, or no such process."""
    process = Path("/proc", str(pid))
    return parse((process / "smaps_rollup").read_text(), (process / "status").read_text())


def parse(rollup: str, status: str) -> Resident:
    """From the texts of smaps_rollup and status."""
    return Resident(
        now=_bytes(rollup, "Rss"),
        peak=_bytes(status, "VmHWM"),
        private=_bytes(rollup, "Private_Clean") + _bytes(rollup, "Private_Dirty"),
        anonymous=_bytes(rollup, "Anonymous"),
    )


def _bytes(text: str, name: str) -> int:
    found = re.search(rf"^{name}:\s+(\d+) kB$", text, re.MULTILINE)
    return int(found[1]) * 1024 if found else 0

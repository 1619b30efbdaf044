"""The times the engine is to reach: set for one H200, and scaled by what the machine at hand can do."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from benchmarks.ceilings import H200, Ceilings
from benchmarks.table import milliseconds

SHAPE = "qwen2.5-7b"
"""The shape the goals were set for, in bf16."""


@dataclass(frozen=True)
class Goal:
    """At most `seconds` for `what` on the reference machine; `bound` says what limits it there."""

    what: str
    seconds: float
    bound: Literal["copy", "matmul"]

    def here(self, ceilings: Ceilings) -> float:
        """The goal in seconds on a machine with these ceilings."""
        there, here = (limits.copy if self.bound == "copy" else limits.matmul for limits in (H200, ceilings))
        return self.seconds * there / here

    def judge(self, measured: float, ceilings: Ceilings) -> Verdict:
        here = self.here(ceilings)
        return Verdict(self.what, measured, self.seconds, here, measured <= here)


@dataclass(frozen=True)
class Verdict:
    """A goal and what was measured, in seconds: `goal` on the reference machine, `scaled` on the one at hand."""

    what: str
    measured: float
    goal: float
    scaled: float
    met: bool

    def __str__(self) -> str:
        numbers = f"{milliseconds(self.measured)} ms, goal {milliseconds(self.goal)} ms on an H200"
        return (
            f"GOAL {'met    ' if self.met else 'NOT MET'} {self.what}: {numbers}, {milliseconds(self.scaled)} ms here"
        )


@dataclass(frozen=True)
class RatioVerdict:
    """Something that may take at most `most` times as long as something else."""

    what: str
    ratio: float
    most: float

    @property
    def met(self) -> bool:
        return self.ratio <= self.most

    def __str__(self) -> str:
        return f"GOAL {'met    ' if self.met else 'NOT MET'} {self.what}: × {self.ratio:.3f}, at most {self.most}"


DECODE = {8192: Goal("decode at 8,192 tokens", 4.3e-3, "copy"), 32768: Goal("decode at 32,768 tokens", 4.8e-3, "copy")}
PREFILL = {8192: Goal("cold prefill of 8,192", 0.2, "matmul"), 32768: Goal("cold prefill of 32,768", 1.05, "matmul")}
WARM = Goal("64-token question, all warm", 12e-3, "copy")
EDITED = Goal("one line edited, asked at once", 40e-3, "copy")
TOGGLED = Goal("a file toggled, asked at once", 15e-3, "copy")
FILTERED_TABLE = 1.05
"""Most that decoding over many segments, some left out and moved, may take compared with one segment."""


def in_lines(verdicts: Iterable[object]) -> list[str]:
    """A line per verdict, or none."""
    return [str(verdict) for verdict in verdicts]

"""The traces there are: how many files they need, which steps they take, and what is warm before each of these."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from benchmarks import workspace
from benchmarks.corpus import COUNT, SourceFile
from benchmarks.steps import Step, editing_trace


@dataclass(frozen=True)
class Trace:
    """One trace.

    Attributes:
        files: how many it opens; `tokens` is their usual length, `repeat` the usual number of rounds.
        settled: all KV is made exact before each change; what is measured is then the change alone.
        steps: made of the files and of what counts a text's tokens.
        kv_prompts: how many whole prompts' KV it computes.
    """

    name: str
    files: int
    tokens: int
    repeat: int
    settled: bool
    steps: Callable[[Sequence[SourceFile], Callable[[str], int]], list[Step]]
    kv_prompts: int


EDITING = Trace(
    "editing", COUNT, tokens=400, repeat=3, settled=False, steps=lambda files, _: editing_trace(files), kv_prompts=5
)
WORKSPACE = Trace(
    "workspace",
    workspace.COUNT,
    tokens=1024,
    repeat=2,
    settled=True,
    steps=workspace.workspace_trace,
    kv_prompts=4,
)
TRACES = {trace.name: trace for trace in (EDITING, WORKSPACE)}

"""How soon cheap requests are answered by a language server whose engine has its hands full.

`python -m benchmarks.responsiveness --help`; docs/benchmarks.md says what the figures mean.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch

from benchmarks import machine
from benchmarks.busy_editor import BusyEditor, busy_editor
from benchmarks.corpus import COUNT, cut, find_files
from benchmarks.options import positive
from benchmarks.table import layout, milliseconds, percentile
from ctx_lsp.terminal.client import ServerError, ServerGoneError

GOAL = 0.05
"""Seconds that the median of every kind may take beside a busy engine."""
_LONGEST_PAUSE = 0.1
_CANCELLED = "$/cancelRequest"


@dataclass(frozen=True)
class Probe:
    """A cheap request; it is left out where the server lacks `capability`."""

    method: str
    params: dict[str, Any]
    capability: str | None = None


@dataclass(frozen=True)
class Sample:
    """Seconds from a request (for a cancellation: from that) to its answer, with or without work going on."""

    kind: str
    busy: bool
    seconds: float


@dataclass(frozen=True)
class Report:
    """What a run found out; `deltas` are pieces of answers that came while the busy samples were taken."""

    title: str
    settings: dict[str, Any]
    machine: dict[str, Any]
    samples: tuple[Sample, ...]
    deltas: int

    def seconds(self, kind: str, busy: bool) -> list[float]:
        return [sample.seconds for sample in self.samples if (sample.kind, sample.busy) == (kind, busy)]

    @property
    def kinds(self) -> list[str]:
        return list(dict.fromkeys(sample.kind for sample in self.samples))

    @property
    def slow(self) -> list[str]:
        """Kinds that miss the goal."""
        return [kind for kind in self.kinds if median(self.seconds(kind, True)) > GOAL]

    def __str__(self) -> str:
        lines = [["request", "n", "idle ms", "p95", "busy ms", "p95", "most"]]
        for kind in self.kinds:
            idle, busy = self.seconds(kind, False), self.seconds(kind, True)
            figures = (median(idle), percentile(idle, 0.95), median(busy), percentile(busy, 0.95), max(busy))
            lines.append([kind, str(len(busy)), *map(milliseconds, figures)])
        goal = f"Goal: a median of at most {milliseconds(GOAL)} ms while busy; "
        met = f"missed by {', '.join(self.slow)}." if self.slow else "met by all."
        load = f"Meanwhile {self.deltas:,} pieces of answers came."
        table = layout(lines, left={0})
        return "\n".join([self.title, machine.in_words(self.machine), "", table, "", load, goal + met])


@dataclass(frozen=True)
class Options:
    """One run: `rounds` requests of each kind, before and while the engine works."""

    model: str = "smollm2-135m"
    device: str = "auto"
    threads: int | None = None
    files: tuple[Path, ...] = ()
    characters: int = 3000
    edit_seconds: float = 1.0
    rounds: int = 50
    seed: int = 1


async def run(options: Options) -> Report:
    """Ask the server while nothing goes on, then while an answer streams and edited files prefill.

    Raises:
        ServerError, ServerGoneError, ValueError: the engine can't be started, the files can't be used.
    """
    files = [cut(file, options.characters) for file in find_files(options.files)]
    server_options = {
        "model": options.model,
        "device": options.device,
        "threads": options.threads,
        "idleTimeout": 5,
        "files": {"maxTokens": 0},
    }
    draw = random.Random(options.seed)
    with tempfile.TemporaryDirectory() as folder:
        async with busy_editor(Path(folder), files, server_options) as editor:
            probes = _probes(editor)
            idle = await _measure(editor, probes, options.rounds, draw, busy=False)
            async with editor.at_work(options.edit_seconds):
                await _until_streaming(editor)
                before = editor.deltas
                busy = await _measure(editor, probes, options.rounds, draw, busy=True)
                deltas = editor.deltas - before
    return Report(
        title=f"Cheap requests beside a busy engine with {options.model}",
        settings=asdict(options),
        machine=machine.describe(torch.device("cpu" if options.device == "auto" else options.device)),
        samples=(*idle, *busy),
        deltas=deltas,
    )


def _probes(editor: BusyEditor) -> list[Probe]:
    document = {"textDocument": {"uri": editor.uri(editor.files[0])}}
    probes = (
        Probe("ctx/status", {}),
        Probe("ctx/chunks", {}),
        Probe("ctx/slash/complete", {"text": "/activate a"}),
        Probe("textDocument/hover", {**document, "position": {"line": 0, "character": 0}}, "hoverProvider"),
        Probe("textDocument/codeLens", document, "codeLensProvider"),
    )
    return [probe for probe in probes if probe.capability is None or editor.capabilities.get(probe.capability)]


async def _until_streaming(editor: BusyEditor) -> None:
    while not editor.deltas:
        await asyncio.sleep(_LONGEST_PAUSE)


async def _measure(
    editor: BusyEditor, probes: Sequence[Probe], rounds: int, draw: random.Random, *, busy: bool
) -> list[Sample]:
    """Each kind once per round, at moments drawn by chance."""
    samples = []
    for round in range(rounds):
        for probe in draw.sample(probes, len(probes)):
            await asyncio.sleep(draw.uniform(0, _LONGEST_PAUSE))
            began = time.perf_counter()
            await editor.client.request(probe.method, probe.params)
            samples.append(Sample(probe.method, busy, time.perf_counter() - began))
        samples.append(Sample(_CANCELLED, busy, await _cancel(editor, f"{busy}-{round}", draw)))
    return samples


async def _cancel(editor: BusyEditor, turn: str, draw: random.Random) -> float:
    """From the cancellation of a question to its answer."""
    params = {"turnId": turn, "conversationId": turn, "text": "What does this code do?"}
    question = asyncio.create_task(editor.client.request("ctx/chat", params))
    await asyncio.sleep(draw.uniform(0, _LONGEST_PAUSE))
    began = time.perf_counter()
    question.cancel()
    await asyncio.wait([question])
    return time.perf_counter() - began


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark as `arguments` say; 1 if a kind misses the goal, 2 if it can't run."""
    given = _parser().parse_args(arguments)
    fields = {name: value for name, value in vars(given).items() if name != "json"}
    try:
        report = asyncio.run(run(Options(**{**fields, "files": tuple(given.files)})))
    except (ServerError, ServerGoneError, ValueError) as error:
        print(f"benchmarks.responsiveness: {error}", file=sys.stderr)
        return 2
    print(report)
    if given.json:
        given.json.write_text(json.dumps(asdict(report), indent=1, default=str) + "\n", encoding="utf-8")
    return 1 if report.slow else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.responsiveness", description=__doc__)
    parser.add_argument("--model", default=Options.model, help="as the server's option")
    parser.add_argument("--device", default=Options.device, help="auto, cpu, cuda, …")
    parser.add_argument("--threads", type=positive, help="CPU threads of the engine")
    parser.add_argument("--files", nargs="+", type=Path, default=(), help=f"{COUNT} files or a folder; else Python's")
    parser.add_argument("--characters", type=positive, default=Options.characters, help="of each file")
    parser.add_argument("--edit-seconds", type=float, default=Options.edit_seconds, help="between edits")
    parser.add_argument("--rounds", type=positive, default=Options.rounds, help="requests of each kind, idle and busy")
    parser.add_argument("--seed", type=int, default=Options.seed, help="of the moments at which they are sent")
    parser.add_argument("--json", type=Path, help="write everything to this file")
    return parser


if __name__ == "__main__":
    sys.exit(main())

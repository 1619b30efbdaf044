"""How soon the language server, the engine and a first answer are there, and how much memory the engine takes.

`python -m benchmarks.start --help`; docs/benchmarks.md says what the figures mean.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
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
from benchmarks.corpus import STANDARD_LIBRARY, SourceFile, find_files
from benchmarks.options import positive
from benchmarks.resident import Resident, resident
from benchmarks.start_chat import NoAnswerError, end_engines, first_answer
from benchmarks.start_engine import EngineRefusedError, started_engine
from benchmarks.table import layout
from ctx_lsp.terminal.client import Client, ServerError, ServerGoneError
from engine.config import DEFAULT_MODEL
from engine.serve.stages import Stage

SERVER, ENGINE, CHAT = "ctx-lsp answers initialize", "ctx-engine is ready", "first token of a first chat"
GOALS = {SERVER: 1.0, ENGINE: 5.0}
"""Most seconds, in the median."""
MOST_BYTES = 2.5e9
"""Of the engine's memory at its peak, with a context."""


@dataclass(frozen=True)
class Start:
    """One kind of start: the stages of each time it was measured."""

    name: str
    runs: tuple[tuple[Stage, ...], ...]

    @property
    def totals(self) -> list[float]:
        return [sum(stage.seconds for stage in run) for run in self.runs]

    def lines(self) -> list[list[str]]:
        """Of the table: all of it, and below how long each stage took where there are several."""
        figures = (median(self.totals), min(self.totals), max(self.totals))
        lines = [[self.name, str(len(self.runs)), *(f"{seconds:.2f}" for seconds in figures)]]
        messages = list(dict.fromkeys(stage.message for run in self.runs for stage in run))
        for message in messages if len(messages) > 1 else ():
            seconds = [sum(stage.seconds for stage in run if stage.message == message) for run in self.runs]
            shown = message[:1].lower() + message[1:]
            lines.append([f"  {shown}", "", *(f"{of(seconds):.2f}" for of in (median, min, max))])
        return lines


@dataclass(frozen=True)
class Memory:
    """What the engine holds while `tokens` of files are in its context."""

    tokens: int
    resident: Resident

    def line(self) -> list[str]:
        held = self.resident
        return [
            f"{self.tokens:,}",
            *(f"{count / 1e6:,.0f}" for count in (held.now, held.peak, held.private, held.anonymous)),
        ]


@dataclass(frozen=True)
class Report:
    """What a run found out."""

    title: str
    settings: dict[str, Any]
    machine: dict[str, Any]
    starts: tuple[Start, ...]
    memory: tuple[Memory, ...]

    @property
    def missed(self) -> list[str]:
        """Goals that were not met, in words."""
        late = [start.name for start in self.starts if median(start.totals) > GOALS.get(start.name, float("inf"))]
        large = any(memory.resident.peak > MOST_BYTES for memory in self.memory)
        return [*late, *(["memory"] if large else [])]

    def __str__(self) -> str:
        times = layout([["seconds until", "n", "median", "least", "most"], *self._starts()], left={0})
        header = ["tokens of context", "resident MB", "at its peak", "of it private", "anonymous"]
        memory = layout([header, *(memory.line() for memory in self.memory)], left=())
        within = ", ".join(f"{name} in {seconds:g} s" for name, seconds in GOALS.items())
        goals = f"Goals: {within}, at most {MOST_BYTES / 1e9:g} GB; "
        met = f"missed: {', '.join(self.missed)}." if self.missed else "all met."
        return "\n\n".join([f"{self.title}\n{machine.in_words(self.machine)}", times, memory, goals + met])

    def _starts(self) -> list[list[str]]:
        return [line for start in self.starts for line in start.lines()]


@dataclass(frozen=True)
class Options:
    """One run; each kind of start is measured `rounds` times."""

    model: str = DEFAULT_MODEL
    device: str = "auto"
    threads: int | None = None
    files: tuple[Path, ...] = ()
    characters: int = 3000
    context_tokens: int = 8192
    rounds: int = 3

    @property
    def of_engine(self) -> list[str]:
        """As options of the commands `ctx-engine` and `ctx-lsp chat`."""
        threads = [] if self.threads is None else ["--threads", str(self.threads)]
        return ["--model", self.model, "--device", self.device, *threads]


def run(options: Options) -> Report:
    """Measure one after the other, each process by itself.

    Raises:
        EngineRefusedError, NoAnswerError, ServerError, ServerGoneError: something did not start.
        ValueError: the files can't be used.
    """
    chat_files = [_cut(file, options.characters) for file in find_files(options.files, 2)]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        memory = _memory(options, folder)  # the first start: whatever has to be converted is, from here on
        starts = (
            Start(SERVER, tuple(asyncio.run(_server(folder)) for _ in range(options.rounds))),
            Start(ENGINE, tuple(_engine(options, folder) for _ in range(options.rounds))),
            Start(CHAT, tuple(_chat(options, chat_files, folder / str(index)) for index in range(options.rounds))),
        )
    return Report(
        title=f"Starts with {options.model}",
        settings=asdict(options),
        machine=machine.describe(torch.device("cpu" if options.device == "auto" else options.device)),
        starts=starts,
        memory=memory,
    )


def _memory(options: Options, folder: Path) -> tuple[Memory, ...]:
    """Of an engine that has nothing to do, and of the same one when it has answered over files."""
    with started_engine(options.of_engine, folder) as engine:
        idle = Memory(0, resident(engine.info.pid))
        files = [_cut(file, options.characters) for file in find_files((), len(STANDARD_LIBRARY))]
        tokens = engine.answer_over(files, options.context_tokens)
        return idle, Memory(tokens, resident(engine.info.pid))


def _engine(options: Options, folder: Path) -> tuple[Stage, ...]:
    with started_engine(options.of_engine, folder) as engine:
        return engine.stages


async def _server(folder: Path) -> tuple[Stage, ...]:
    began = time.perf_counter()
    client = await Client.start([sys.executable, "-m", "ctx_lsp", "serve"], env={**os.environ, **_places(folder)})
    try:
        await client.request("initialize", {"processId": os.getpid(), "rootUri": None, "capabilities": {}})
        return (Stage("answered", time.perf_counter() - began),)
    finally:
        await client.close()


def _chat(options: Options, files: Sequence[SourceFile], folder: Path) -> tuple[Stage, ...]:
    workspace = folder / "workspace"
    workspace.mkdir(parents=True)
    for file in files:
        (workspace / file.name).write_text(file.text, encoding="utf-8")
    places = _places(folder)
    try:
        return asyncio.run(first_answer(workspace, options.of_engine, places))
    finally:
        end_engines(Path(places["CTX_LSP_RUNTIME_DIR"]))


def _places(folder: Path) -> dict[str, str]:
    """Where nobody else's engines and servers are."""
    return {"CTX_LSP_RUNTIME_DIR": str(folder / "runtime"), "CTX_LSP_STATE_DIR": str(folder / "state")}


def _cut(file: SourceFile, characters: int) -> SourceFile:
    """The file's first whole lines, of so many characters in all."""
    return SourceFile(file.name, file.text[: file.text.rfind("\n", 0, characters) + 1])


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark as `arguments` say; 1 if a goal is missed, 2 if it can't run."""
    given = _parser().parse_args(arguments)
    fields = {name: value for name, value in vars(given).items() if name != "json"}
    try:
        report = run(Options(**{**fields, "files": tuple(given.files)}))
    except (EngineRefusedError, NoAnswerError, ServerError, ServerGoneError, ValueError) as error:
        print(f"benchmarks.start: {error}", file=sys.stderr)
        return 2
    print(report)
    if given.json:
        given.json.write_text(json.dumps(asdict(report), indent=1, default=str) + "\n", encoding="utf-8")
    return 1 if report.missed else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.start", description=__doc__)
    parser.add_argument("--model", default=Options.model, help="as the engine's option")
    parser.add_argument("--device", default=Options.device, help="auto, cpu, cuda, …")
    parser.add_argument("--threads", type=positive, help="CPU threads of the engine")
    parser.add_argument("--files", nargs="+", type=Path, default=(), help="2 files to chat about; else Python's")
    parser.add_argument("--characters", type=positive, default=Options.characters, help="of each file, in any context")
    parser.add_argument("--context-tokens", type=positive, default=Options.context_tokens, help="of the full context")
    parser.add_argument("--rounds", type=positive, default=Options.rounds, help="how often each start is measured")
    parser.add_argument("--json", type=Path, help="write everything to this file")
    return parser


if __name__ == "__main__":
    sys.exit(main())

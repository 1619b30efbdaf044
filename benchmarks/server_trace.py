"""Time to the first token after each thing a user does to six files: ctx-engine beside llama.cpp's servers, over HTTP.

`python -m benchmarks.server_trace --help`; docs/benchmarks.md says what the figures mean.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import get_args

import torch

from benchmarks import machine
from benchmarks.corpus import COUNT, SourceFile, cut, find_files
from benchmarks.gguf_file import gguf_file
from benchmarks.options import positive
from benchmarks.results import add_result_options, deliver
from benchmarks.server_actions import actions, of_round
from benchmarks.server_processes import LlamaServer, ctx_engine, llama_server
from benchmarks.server_report import Report, Sample, rows
from benchmarks.server_sides import EngineSide, PromptSide, Side
from benchmarks.speeds import own_speeds
from benchmarks.trace_plot import plot
from engine.config import Fidelity

_WARM_UP_CHARACTERS = 300
_NAMES = {"xllamacpp": "llama-server", "llama_cpp": "llama_cpp.server"}


@dataclass(frozen=True)
class Options:
    """One run.

    Attributes:
        llama_cpp: an interpreter that has what `packages` names.
        packages: whose servers take part, `xllamacpp` and `llama_cpp`.
        cache_reuse: llama.cpp's own server takes part once more with this option, unless it is 0.
        characters: of each file.
    """

    model: str
    llama_cpp: Path
    packages: tuple[str, ...] = ("xllamacpp", "llama_cpp")
    cache_reuse: int = 0
    threads: int = os.cpu_count() or 1
    context: int = 8192
    files: tuple[Path, ...] = ()
    characters: int = 1600
    repeat: int = 3
    answer_tokens: int = 4
    fidelity: Fidelity = "auto"

    @property
    def servers(self) -> tuple[LlamaServer, ...]:
        plain = [LlamaServer(_NAMES[package], self.llama_cpp, package) for package in self.packages]
        if not self.cache_reuse:
            return tuple(plain)
        name = f"llama-server --cache-reuse {self.cache_reuse}"
        return (*plain, LlamaServer(name, self.llama_cpp, "xllamacpp", self.cache_reuse))


def run(options: Options) -> Report:
    """Start all servers, and go through the actions `repeat` times.

    Raises:
        ValueError: a server can't be started or refuses, or the files can't be used.
    """
    files = [cut(file, options.characters) for file in find_files(options.files)]
    gguf = gguf_file(options.model)
    with tempfile.TemporaryDirectory(prefix="server-trace-") as folder, ExitStack() as stack:
        sides = _sides(options, gguf, Path(folder), stack)
        for _ in _play(sides, [cut(file, _WARM_UP_CHARACTERS) for file in files], -1):
            pass
        samples = [sample for number in range(options.repeat) for sample in _play(sides, files, number)]
    return Report(
        title=f"Six files and a question after each action, with {options.model}",
        settings=asdict(options),
        machine={**machine.describe(torch.device("cpu")), "threads": options.threads},
        files={file.name: len(file.text) for file in files},
        rows=tuple(rows(samples, EngineSide.name)),
        ours=EngineSide.name,
    )


def _sides(options: Options, gguf: Path, folder: Path, stack: ExitStack) -> list[Side]:
    """All servers, started one after the other."""
    started = ["--model", options.model, "--device", "cpu", "--threads", str(options.threads)]
    engine = stack.enter_context(ctx_engine(started, folder))
    sides: list[Side] = [EngineSide(engine, options.answer_tokens, options.fidelity)]
    for number, server in enumerate(options.servers):
        running = llama_server(server, gguf, options.threads, options.context, folder / f"llama-{number}.log")
        sides.append(PromptSide(server.name, stack.enter_context(running), options.answer_tokens))
    return sides


def _play(sides: Sequence[Side], files: Sequence[SourceFile], number: int) -> Iterator[Sample]:
    """One round: the sides take turns at every action, and each has the machine to itself."""
    for side in sides:
        side.begin(number)
    for action in actions(of_round(files, number)):
        for side in sides:
            change = side.change(action)
            yield Sample(number, action.name, side.name, change, side.ask(action))
            side.settle()


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark as `arguments` say; 2 if it can't run."""
    parser = _parser()
    given = parser.parse_args(arguments)
    # no server is left behind where this process is told to end
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))

    def measure() -> Report:
        with own_speeds():
            return run(_options(given))

    return deliver(parser, given, measure, plot)


def _options(given: argparse.Namespace) -> Options:
    fields = {name: value for name, value in vars(given).items() if name in Options.__dataclass_fields__}
    return Options(**{**fields, "files": tuple(given.files), "packages": tuple(given.packages)})


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.server_trace", description=__doc__)
    parser.add_argument("--model", default="smollm2-135m", help="a catalogue name or a GGUF file")
    parser.add_argument(
        "--llama-cpp",
        type=Path,
        metavar="PYTHON",
        default=Path(sys.executable),
        help="one that has the packages",
    )
    parser.add_argument("--packages", nargs="+", choices=_NAMES, default=Options.packages, help="whose servers run")
    parser.add_argument(
        "--cache-reuse", type=int, default=0, metavar="N", help="llama-server once more, with this option of it"
    )
    parser.add_argument("--threads", type=positive, default=Options.threads, help="of every server")
    parser.add_argument("--context", type=positive, default=Options.context, help="tokens that llama.cpp has room for")
    parser.add_argument("--files", nargs="+", type=Path, default=(), help=f"{COUNT} files or a folder; else Python's")
    parser.add_argument("--characters", type=positive, default=Options.characters, help="of each file")
    parser.add_argument("--repeat", type=positive, default=Options.repeat, help="rounds, of which medians are shown")
    parser.add_argument("--answer-tokens", type=positive, default=Options.answer_tokens)
    parser.add_argument("--fidelity", choices=get_args(Fidelity), default=Options.fidelity, help="of ctx-engine's")
    add_result_options(parser)
    return parser


if __name__ == "__main__":
    sys.exit(main())

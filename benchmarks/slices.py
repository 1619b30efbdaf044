"""How long a warm question waits for the background: asked at random moments while a large context is prefilled.

`python -m benchmarks.slices --help`; docs/benchmarks.md says what the figures mean.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks import machine, models
from benchmarks.corpus import COUNT, SourceFile, find_files, trim
from benchmarks.options import add_engine_options, add_shape_option, engine_config, positive
from benchmarks.speeds import own_speeds
from benchmarks.table import layout, milliseconds, percentile
from engine import Engine, SamplingParams
from engine.config import EngineConfig
from engine.context import Context
from engine.errors import EngineError
from engine.model import LoadedModel
from engine.types import ChatDone

SIZED = "sized by speed"
_LONGEST_PAUSE = 0.2
"""Seconds between questions, or half of what the background takes if that is less."""
_QUESTIONS = ("What does it do?", "Which function is the longest?", "Is anything missing?", "How would you test it?")


@dataclass(frozen=True)
class Sample:
    """A question's time to the first token in seconds, with or without work in the background."""

    slices: str
    busy: bool
    seconds: float


@dataclass(frozen=True)
class Report:
    """What a run found out; `machine` is what it ran on, `tokens` the size that `SIZED` had come to at the end."""

    title: str
    settings: dict[str, Any]
    machine: dict[str, Any]
    samples: tuple[Sample, ...]
    tokens: int

    def waits(self, slices: str) -> list[float]:
        """How much longer each question took beside the background than the median of those without, seconds."""
        of_size = [sample for sample in self.samples if sample.slices == slices]
        idle = median(sample.seconds for sample in of_size if not sample.busy)
        return [sample.seconds - idle for sample in of_size if sample.busy]

    def __str__(self) -> str:
        lines = [["slices", "n", "idle ms", "median wait", "p90", "most"]]
        for slices in dict.fromkeys(sample.slices for sample in self.samples):
            waits = self.waits(slices)
            idle = [sample.seconds for sample in self.samples if sample.slices == slices and not sample.busy]
            figures = (median(idle), median(waits), percentile(waits, 0.9), max(waits))
            lines.append([slices, str(len(waits)), *map(_milliseconds, figures)])
        found = f"Slices sized by speed had {self.tokens} tokens at last."
        return "\n".join([self.title, machine.in_words(self.machine), "", layout(lines, left={0}), "", found])


def _milliseconds(seconds: float) -> str:
    return milliseconds(seconds) if seconds >= 0 else f"-{milliseconds(-seconds)}"


@dataclass(frozen=True)
class Options:
    """One run: `rounds` questions beside the background and as many without, for each way to size slices."""

    config: EngineConfig
    shape: str | None = None
    files: tuple[Path, ...] = ()
    background_tokens: int = 4096
    fixed: int = 256
    rounds: int = 20
    seed: int = 1


def run(options: Options) -> Report:
    """Ask with slices sized by speed, then with fixed ones.

    Raises:
        EngineError, ValueError: the model can't be loaded, the files can't be used or are too long for it.
    """
    files = find_files(options.files)
    config = replace(options.config, kv_cache_tokens=4 * options.background_tokens + 8192, slice_tokens=None)
    model = models.load_engine(config, options.shape, [file.text for file in files])

    def cut(file: SourceFile, tokens: int) -> SourceFile:
        return trim(file, tokens, lambda text: len(model.tokenizer.encode(text, special=False)))

    background = [cut(file, options.background_tokens // COUNT) for file in files]
    samples = list[Sample]()
    with own_speeds():
        sized, tokens = _measure(SIZED, model, config, options, background)
        fixed = replace(config, slice_tokens=options.fixed)
        samples = [*sized, *_measure(f"{options.fixed} tokens", model, fixed, options, background)[0]]
    return Report(
        title=f"Waiting for the background with {options.shape or options.config.model}",
        settings=asdict(options),
        machine=machine.describe(model.device),
        samples=tuple(samples),
        tokens=tokens,
    )


def _measure(
    name: str, model: LoadedModel, config: EngineConfig, options: Options, background: Sequence[SourceFile]
) -> tuple[list[Sample], int]:
    """All questions of one engine, once it has learned its speed; and the size of its background slices."""
    draw = random.Random(options.seed)
    with Engine(config, model=model) as engine:
        asked = engine.context("asked")
        asked.add_chunk(background[0].text[:2000], source="asked.py")
        for number in range(2):
            began = time.perf_counter()
            context = _cold(engine, background, number)
            context.populate()
            context.wait_populated()
        pause = min(_LONGEST_PAUSE, (time.perf_counter() - began) / 2)
        _ask(asked, draw)
        idle = [Sample(name, False, _ask(asked, draw)) for _ in range(options.rounds)]
        busy = list[Sample]()
        while len(busy) < options.rounds:
            if not engine.stats().upkeep:
                _cold(engine, background, 2 + len(busy)).populate()
            time.sleep(draw.uniform(0, pause))
            if engine.stats().upkeep:
                busy.append(Sample(name, True, _ask(asked, draw)))
        tokens = engine._state.forecast.slices.background(options.background_tokens)
    return [*idle, *busy], tokens


def _cold(engine: Engine, files: Sequence[SourceFile], number: int) -> Context:
    """The background's context anew; instructions of its own keep it from finding KV of one before."""
    if "background" in engine.contexts():
        engine.drop_context("background")
    context = engine.context("background", instructions=f"Round {number}.")
    for file in files:
        context.add_chunk(file.text, source=file.name)
    return context


def _ask(context: Context, draw: random.Random) -> float:
    *_, done = context.chat(draw.choice(_QUESTIONS), SamplingParams(max_tokens=1))
    assert isinstance(done, ChatDone)
    return done.timing.time_to_first_token


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark as `arguments` say; 2 if it can't run."""
    given = _parser().parse_args(arguments)
    options = Options(
        config=engine_config(given),
        shape=given.random_shape,
        files=tuple(given.files),
        background_tokens=given.background_tokens,
        fixed=given.slice_tokens or Options.fixed,
        rounds=given.rounds,
        seed=given.seed,
    )
    try:
        report = run(options)
    except (EngineError, ValueError) as error:
        print(f"benchmarks.slices: {error}", file=sys.stderr)
        return 2
    print(report)
    if given.json:
        given.json.write_text(json.dumps(asdict(report), indent=1, default=str) + "\n", encoding="utf-8")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.slices", description=__doc__)
    add_engine_options(parser)
    add_shape_option(parser)
    parser.add_argument("--files", nargs="+", type=Path, default=(), help=f"{COUNT} files or a folder; else Python's")
    parser.add_argument("--background-tokens", type=positive, default=4096, help="of the context that is prefilled")
    parser.add_argument("--rounds", type=positive, default=20, help="questions beside the background, and without it")
    parser.add_argument("--seed", type=int, default=1, help="of the moments at which they are asked")
    parser.add_argument("--json", type=Path, help="write everything to this file")
    return parser


if __name__ == "__main__":
    sys.exit(main())

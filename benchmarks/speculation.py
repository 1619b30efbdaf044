"""What drafts of repeated text are worth: answers that repeat a file and answers that repeat nothing, with and without.

`python -m benchmarks.speculation --help`; docs/benchmarks.md says what the figures mean.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

import torch

from benchmarks import machine, models
from benchmarks.clock import Clock
from benchmarks.corpus import SourceFile, find_files, trim
from benchmarks.options import add_engine_options, add_shape_option, engine_config, positive
from benchmarks.scripted_drafts import scripted_drafts
from benchmarks.speeds import own_speeds
from benchmarks.table import layout
from engine import Engine, SamplingParams
from engine.config import EngineConfig
from engine.errors import EngineError
from engine.model import equip
from engine.types import ChatDone

BAR = 0.03
"""Most of its speed that an answer which repeats nothing may lose."""

FRESH = "repeats nothing"


@dataclass(frozen=True)
class Case:
    """An answer of a kind; with `right` drafts are made by script, and each of their tokens is right that often."""

    name: str
    question: str
    temperature: float = 0.0
    right: float | None = None


@dataclass(frozen=True)
class Sample:
    """One answer with drafts and one without: tokens per second behind the first, and what was drafted.

    Attributes:
        processor: the processor time that a token takes without drafts, over that with them.
    """

    case: str
    plain: float
    drafting: float
    processor: float
    tokens: int
    drafted: int
    accepted: int

    @property
    def ratio(self) -> float:
        return self.drafting / self.plain


@dataclass(frozen=True)
class Report:
    """What a run found out; `machine` is what it ran on."""

    title: str
    settings: dict[str, Any]
    machine: dict[str, Any]
    samples: tuple[Sample, ...]

    @property
    def lost(self) -> float:
        """Share of its speed that an answer which repeats nothing loses, median; on a CPU by processor time."""
        fresh = [sample for sample in self.samples if sample.case == FRESH]
        on_cpu = self.machine["device"] == "CPU"
        return 1 - median(sample.processor if on_cpu else sample.ratio for sample in fresh)

    @property
    def passed(self) -> bool:
        return self.lost <= BAR

    def __str__(self) -> str:
        found = f"{self.lost:.1%} of its speed is lost by an answer that repeats nothing; the bar is {BAR:.0%}."
        verdict = f"{'PASS' if self.passed else 'FAIL'}: {found}"
        return "\n".join([self.title, machine.in_words(self.machine), "", self._table(), "", verdict])

    def _table(self) -> str:
        lines = [
            [
                "answer",
                "n",
                "tokens",
                "tokens/s plain",
                "with drafts",
                "×",
                "CPU ×",
                "drafted",
                "accepted",
                "of drafted",
            ]
        ]
        for case in dict.fromkeys(sample.case for sample in self.samples):
            group = [sample for sample in self.samples if sample.case == case]
            lines.append([case, str(len(group)), *_figures(group)])
        return layout(lines, left={0})


def _figures(samples: Sequence[Sample]) -> list[str]:
    tokens, drafted = sum(sample.tokens for sample in samples), sum(sample.drafted for sample in samples)
    accepted = sum(sample.accepted for sample in samples)
    return [
        f"{tokens / len(samples):,.0f}",
        f"{median(sample.plain for sample in samples):,.1f}",
        f"{median(sample.drafting for sample in samples):,.1f}",
        f"{median(sample.ratio for sample in samples):.3f}",
        f"{median(sample.processor for sample in samples):.3f}",
        f"{drafted / tokens:.0%}",
        f"{accepted / tokens:.0%}",
        f"{accepted / drafted:.0%}" if drafted else "",
    ]


@dataclass(frozen=True)
class Options:
    """One run: of each case `warm_up` answers that aren't counted and `rounds` that are."""

    config: EngineConfig
    shape: str | None = None
    files: tuple[Path, ...] = ()
    file_tokens: int = 400
    answer_tokens: int = 400
    warm_up: int = 1
    rounds: int = 3


def run(options: Options) -> Report:
    """Ask everything of both engines in turn.

    Raises:
        EngineError, ValueError: the model can't be loaded, or the file can't be used or is too long for it.
    """
    (found,) = find_files(options.files, 1)
    pool = 4 * (options.file_tokens + options.answer_tokens) + 4096
    config = replace(options.config, kv_cache_tokens=pool, speculation=False)
    model = models.load_engine(config, options.shape, [found.text])
    another = equip(config, model.decoder, model.tokenizer, model.fingerprint)
    file = trim(found, options.file_tokens, lambda text: len(model.tokenizer.encode(text, special=False)))
    samples = list[Sample]()
    with (
        own_speeds(),
        Engine(config, model=model) as plain,
        Engine(replace(config, speculation=True), model=another) as drafting,
    ):
        for engine in (plain, drafting):
            engine.context().add_chunk(file.text, source=file.name)
        for number in range(options.warm_up + options.rounds):
            asked = [_compare(plain, drafting, case, options, number) for case in _cases(file, options.shape)]
            samples += asked if number >= options.warm_up else []
    return Report(
        title=f"Drafts with {options.shape or options.config.model}",
        settings=asdict(options),
        machine=machine.describe(model.device),
        samples=tuple(samples),
    )


def _cases(file: SourceFile, shape: str | None) -> list[Case]:
    """Random weights repeat no file; drafts by script show what each share of right ones is worth."""
    scripted = [Case(f"drafts {right:.0%} right", "Say it.", right=right) for right in (1.0, 0.9, 0.7, 0.5)]
    fresh = Case(FRESH, "Write down whatever comes to your mind.", temperature=1.0)
    if shape is not None:
        return [*scripted, fresh]
    name = max(file.text.split(), key=len)
    repeat = f"Write {file.name} out once more, complete and unchanged but for `{name}`, which is now called `other`."
    return [Case("told to repeat a file", repeat), *scripted, fresh]


def _compare(plain: Engine, drafting: Engine, case: Case, options: Options, number: int) -> Sample:
    """The same answer from both, each first in every other round."""
    params = SamplingParams(case.temperature, max_tokens=options.answer_tokens, seed=number)
    before, done, processor = drafting.stats(), dict[Engine, ChatDone](), dict[Engine, float]()
    for engine in (plain, drafting) if number % 2 else (drafting, plain):
        clock = Clock(torch.device(engine.device))
        with _scripted(engine, case, number):
            *_, last = engine.context().chat(case.question, params)
        clock.stop()
        assert isinstance(last, ChatDone)
        done[engine] = last
        processor[engine] = clock.cpu_seconds / last.usage.completion_tokens
    after = drafting.stats()
    return Sample(
        case.name,
        done[plain].timing.tokens_per_second,
        done[drafting].timing.tokens_per_second,
        processor[plain] / processor[drafting],
        done[drafting].usage.completion_tokens,
        after.tokens_drafted - before.tokens_drafted,
        after.tokens_accepted - before.tokens_accepted,
    )


def _scripted(engine: Engine, case: Case, seed: int) -> AbstractContextManager[None]:
    return nullcontext() if case.right is None else scripted_drafts(engine, case.right, seed)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark as `arguments` say; 1 if the bar isn't met, 2 if it can't run."""
    given = _parser().parse_args(arguments)
    options = Options(
        config=engine_config(given),
        shape=given.random_shape,
        files=(given.file,) if given.file else (),
        file_tokens=given.file_tokens,
        answer_tokens=given.answer_tokens,
        warm_up=given.warm_up,
        rounds=given.rounds,
    )
    try:
        report = run(options)
    except (EngineError, ValueError) as error:
        print(f"benchmarks.speculation: {error}", file=sys.stderr)
        return 2
    print(report)
    if given.json:
        given.json.write_text(json.dumps(asdict(report), indent=1, default=str) + "\n", encoding="utf-8")
    return 0 if report.passed else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.speculation", description=__doc__)
    add_engine_options(parser)
    add_shape_option(parser)
    parser.add_argument("--file", type=Path, help="the file that is repeated; else one of Python's")
    parser.add_argument("--file-tokens", type=positive, default=400, help="its length")
    parser.add_argument("--answer-tokens", type=positive, default=400, help="most tokens of an answer")
    parser.add_argument("--warm-up", type=int, default=1, help="rounds that aren't counted")
    parser.add_argument("--rounds", type=positive, default=3)
    parser.add_argument("--json", type=Path, help="write everything to this file")
    return parser


if __name__ == "__main__":
    sys.exit(main())

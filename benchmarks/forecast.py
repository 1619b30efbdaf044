"""How well the engine foretells the time to the first token: `Context.plan` just before, the clock just after.

Asks questions of every kind, first with a forecast that learns as it goes, then with one that begins with what the
first has kept. `python -m benchmarks.forecast --help`; docs/benchmarks.md says what the figures mean.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks import machine, models
from benchmarks.corpus import COUNT, SourceFile, find_files
from benchmarks.options import add_engine_options, add_shape_option, engine_config, positive
from benchmarks.questions import Question, questions
from benchmarks.speeds import own_speeds
from benchmarks.table import layout, milliseconds, percentile
from engine import Engine, SamplingParams
from engine.config import EngineConfig
from engine.context import Context
from engine.errors import EngineError
from engine.model import LoadedModel
from engine.types import ChatDone

BAR = 0.25
"""Most that the median relative error may be."""
LEARNING, LOADED = "learning", "loaded"
_ONE_TOKEN = SamplingParams(max_tokens=1)


@dataclass(frozen=True)
class Sample:
    """A question's time to the first token in seconds, foretold and measured; `computed` tokens of its prompt."""

    phase: str
    kind: str
    computed: int
    predicted: float
    measured: float

    @property
    def error(self) -> float:
        """Relative to what was measured."""
        return abs(self.predicted - self.measured) / self.measured


@dataclass(frozen=True)
class Report:
    """What a run found out; `machine` is what it ran on."""

    title: str
    settings: dict[str, Any]
    machine: dict[str, Any]
    samples: tuple[Sample, ...]

    def error(self, phase: str) -> float:
        """The phase's median error."""
        return median(sample.error for sample in self.samples if sample.phase == phase)

    @property
    def passed(self) -> bool:
        return all(self.error(phase) <= BAR for phase in (LEARNING, LOADED))

    def __str__(self) -> str:
        errors = ", ".join(f"{phase} {self.error(phase):.1%}" for phase in (LEARNING, LOADED))
        verdict = f"{'PASS' if self.passed else 'FAIL'}: median error {errors}; the bar is {BAR:.0%}."
        return "\n".join([self.title, machine.in_words(self.machine), "", self._table(), "", verdict])

    def _table(self) -> str:
        """A line per phase and kind, and one for each whole phase."""
        lines = [["forecast", "question", "n", "tokens", "foretold ms", "measured ms", "median error", "p90 error"]]
        for phase in (LEARNING, LOADED):
            of_phase = [sample for sample in self.samples if sample.phase == phase]
            kinds = dict.fromkeys(sample.kind for sample in of_phase)
            groups = {kind: [sample for sample in of_phase if sample.kind == kind] for kind in kinds}
            for index, (kind, group) in enumerate({**groups, "all": of_phase}.items()):
                lines.append([phase if not index else "", kind, str(len(group)), *_figures(group)])
        return layout(lines, left={0, 1})


def _figures(samples: Sequence[Sample]) -> list[str]:
    errors = [sample.error for sample in samples]
    return [
        f"{median(sample.computed for sample in samples):,.0f}",
        milliseconds(median(sample.predicted for sample in samples)),
        milliseconds(median(sample.measured for sample in samples)),
        f"{median(errors):.1%}",
        f"{percentile(errors, 0.9):.1%}",
    ]


@dataclass(frozen=True)
class Options:
    """One run: `warm_up` questions aren't counted at first, then `rounds` of each kind are, in either phase."""

    config: EngineConfig
    shape: str | None = None
    files: tuple[Path, ...] = ()
    tokens: int = 200
    warm_up: int = 4
    rounds: int = 4
    seed: int = 1


def run(options: Options) -> Report:
    """Ask in both phases.

    Raises:
        EngineError, ValueError: the model can't be loaded, the files can't be used or are too long for it.
    """
    files = find_files(options.files)
    model = models.load_engine(options.config, options.shape, [file.text for file in files])
    draw = random.Random(options.seed)
    with own_speeds():
        learning = _phase(LEARNING, model, options, files, draw)[options.warm_up :]
        loaded = _phase(LOADED, model, options, files, draw)
    return Report(
        title=f"Forecasts with {options.shape or options.config.model}",
        settings=asdict(options),
        machine=machine.describe(model.device),
        samples=(*learning, *loaded),
    )


def _phase(
    name: str, model: LoadedModel, options: Options, files: Sequence[SourceFile], draw: random.Random
) -> list[Sample]:
    """A fresh engine's answers; those that nothing was foretold of are left out."""

    def count(text: str) -> int:
        return len(model.tokenizer.encode(text, special=False))

    samples = []
    with Engine(options.config, model=model) as engine:
        for number in range(options.rounds):
            # instructions of its own keep a round from finding another's KV
            context = engine.context(f"{number}", instructions=f"Round {number} of {name}.", order="fixed")
            for question in questions(context, files, count, options.tokens, draw):
                samples.append(_ask(name, context, question))
            engine.drop_context(context.id)
    return [sample for sample in samples if sample is not None]


def _ask(phase: str, context: Context, question: Question) -> Sample | None:
    predicted = context.plan(question.text, fidelity=question.fidelity).time_to_first_token
    *_, done = context.chat(question.text, _ONE_TOKEN, fidelity=question.fidelity)
    assert isinstance(done, ChatDone)
    if predicted is None:
        return None
    computed, measured = done.usage.prefilled_tokens, done.timing.time_to_first_token
    return Sample(phase, question.kind, computed, predicted, measured)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark as `arguments` say; 1 if the bar isn't met, 2 if it can't run."""
    given = _parser().parse_args(arguments)
    options = Options(
        config=engine_config(given),
        shape=given.random_shape,
        files=tuple(given.files),
        tokens=given.file_tokens,
        warm_up=given.warm_up,
        rounds=given.rounds,
        seed=given.seed,
    )
    try:
        report = run(options)
    except (EngineError, ValueError) as error:
        print(f"benchmarks.forecast: {error}", file=sys.stderr)
        return 2
    print(report)
    if given.json:
        given.json.write_text(json.dumps(asdict(report), indent=1, default=str) + "\n", encoding="utf-8")
    return 0 if report.passed else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.forecast", description=__doc__)
    add_engine_options(parser)
    add_shape_option(parser)
    parser.add_argument("--files", nargs="+", type=Path, default=(), help=f"{COUNT} files or a folder; else Python's")
    parser.add_argument("--file-tokens", type=positive, default=200, help="mean length of a file")
    parser.add_argument("--warm-up", type=int, default=4, help="questions that only teach")
    parser.add_argument("--rounds", type=positive, default=4, help="questions of each kind with either forecast")
    parser.add_argument("--seed", type=int, default=1, help="of files, lengths and changes")
    parser.add_argument("--json", type=Path, help="write everything to this file")
    return parser


if __name__ == "__main__":
    sys.exit(main())

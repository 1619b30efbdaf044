"""A trace over real files: time to the first token and tokens computed at each step, on both sides.

Open files, ask; edit one, ask; drop one, ask; reorder, ask (see `traces`): this engine, and in the same run plain
transformers with a prefix cache. `python -m benchmarks.trace --help`; docs/benchmarks.md says what the figures mean.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks import ceilings, goals, machine, models, workspace
from benchmarks.baseline import PrefixCachedModel
from benchmarks.checks import differences, wrong_labels
from benchmarks.corpus import find_files, trim
from benchmarks.options import add_engine_options, add_shape_option, engine_config, positive
from benchmarks.report import Report, Row, rows
from benchmarks.results import add_result_options, deliver
from benchmarks.rounds import play, shortened, warm_up
from benchmarks.sides import EngineSide, PeerSide, Side, Warmth
from benchmarks.speeds import own_speeds
from benchmarks.stages import stage_times
from benchmarks.steps import Step
from benchmarks.trace_plot import plot
from benchmarks.traces import EDITING, TRACES, Trace
from engine.config import EngineConfig, Fidelity
from engine.device import choose_device, choose_dtype

PEER, EXACT, PAUSED, INSTANT, AUTO = "transformers", "exact", "exact, after a pause", "instant", "auto"


@dataclasses.dataclass(frozen=True)
class Options:
    """One run; `shape` stands in for the config's model, `tokens` and `files` say what is opened."""

    config: EngineConfig
    trace: Trace = EDITING
    shape: str | None = None
    files: tuple[Path, ...] = ()
    tokens: int = EDITING.tokens
    repeat: int = EDITING.repeat
    answer_tokens: int = 1
    profile: bool = False


def run(options: Options) -> Report:
    """Load the model for both sides, warm up, and go through the trace `repeat` times.

    Raises:
        EngineError, ValueError: the model can't be loaded, the files can't be used or are too long for it.
    """
    config, trace = _engine_config(options), options.trace
    device = choose_device(config)
    judged = trace.settled and options.shape == goals.SHAPE
    limits = ceilings.measure(device, choose_dtype(config, device)) if judged else None
    found = find_files(options.files, trace.files)
    loaded = models.load_both(config, options.shape, [file.text for file in found])
    tokenizer = loaded.engine.tokenizer

    def count(text: str) -> int:
        return len(tokenizer.encode(text, special=False))

    files = [trim(file, options.tokens, count) for file in found]
    short = trace.steps(shortened(files), count)
    sides = _sides(loaded, config, options, short)
    steps = trace.steps(files, count)
    warm_up(sides, short if trace.settled or loaded.engine.device.type == "cpu" else steps)
    samples = [sample for number in range(options.repeat) for sample in play(sides, steps, number)]
    found_rows = tuple(rows(samples, PEER))
    return Report(
        title=f"{trace.name.capitalize()} trace over {len(files)} files with {options.shape or config.model}"
        f" ({'random weights, ' if options.shape else ''}{str(loaded.engine.dtype).removeprefix('torch.')})",
        settings={**dataclasses.asdict(config), "shape": options.shape, "rounds": options.repeat},
        machine=machine.describe(loaded.engine.device),
        files={file.name: count(file.text) for file in files},
        rows=found_rows,
        disagreements=tuple(differences(samples, PEER, (EXACT, PAUSED))),
        differing=tuple(differences(samples, EXACT, (INSTANT, AUTO))),
        wrong_labels=tuple(wrong_labels(samples, steps, INSTANT, AUTO, settled=trace.settled)),
        stages=_stages(loaded, config, steps) if options.profile else {},
        ceilings=limits,
        verdicts=tuple(_verdicts(found_rows, limits)) if limits else (),
    )


def _engine_config(options: Options) -> EngineConfig:
    """The config with a KV pool that holds everything a trace computes."""
    prompt = options.trace.files * (options.tokens + 128) + 1024 + options.answer_tokens
    room = options.config.kv_cache_tokens or options.trace.kv_prompts * prompt
    return dataclasses.replace(options.config, kv_cache_tokens=room)


def _sides(loaded: models.Models, config: EngineConfig, options: Options, short: Sequence[Step]) -> list[Side]:
    device, tokenizer, count = loaded.engine.device, loaded.engine.tokenizer, options.answer_tokens
    settled = options.trace.settled

    def engine_side(name: str, fidelity: Fidelity, *, pause: bool = False) -> EngineSide:
        model = loaded.engine if name == EXACT else loaded.another(config)
        warmth = Warmth(settled=settled, after_change=pause, rehearsal=tuple(short) if settled else ())
        return EngineSide(name, model, config, fidelity=fidelity, warmth=warmth, answer_tokens=count)

    return [
        PeerSide(PEER, PrefixCachedModel(loaded.peer, device), tokenizer, device, answer_tokens=count),
        engine_side(EXACT, "exact"),
        # where all is warm before a change, a pause behind it would only repeat the warm question
        *([] if settled else [engine_side(PAUSED, "exact", pause=True)]),
        engine_side(INSTANT, "instant"),
        engine_side(AUTO, "auto"),
    ]


def _verdicts(found: Sequence[Row], limits: ceilings.Ceilings) -> list[goals.Verdict]:
    """The goals of the workspace trace, each step that it names."""
    held = {
        (workspace.WARM, EXACT): goals.WARM,
        (workspace.EDITED, INSTANT): goals.EDITED,
        (workspace.TOGGLED, INSTANT): goals.TOGGLED,
    }
    return [
        dataclasses.replace(goal, what=f"{goal.what} ({row.step}, {row.side})").judge(row.first_token, limits)
        for (begins, side), goal in held.items()
        for row in found
        if row.step.startswith(begins) and row.side == side
    ]


def _stages(loaded: models.Models, config: EngineConfig, steps: Sequence[Step]) -> dict[str, dict[str, float]]:
    """One more round of the engine, asked at once, with its stages timed."""
    side = EngineSide(EXACT, loaded.engine, config)
    side.begin()
    found = {}
    with stage_times(side.engine, loaded.engine.device) as times:
        for step in steps:
            side.change(step)
            found[step.name] = times.take(side.ask(step, side.prompt(step)).seconds)
    side.end()
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark as `arguments` say; 1 if it found a mistake of the engine, 2 if it can't run."""
    parser = _parser()
    given = parser.parse_args(arguments)

    def measure() -> Report:
        with own_speeds():
            return run(_options(given))

    return deliver(parser, given, measure, plot)


def _options(given: argparse.Namespace) -> Options:
    trace = TRACES[given.trace]
    return Options(
        config=engine_config(given),
        trace=trace,
        shape=given.random_shape,
        files=tuple(given.files),
        tokens=given.file_tokens or trace.tokens,
        repeat=given.repeat or trace.repeat,
        answer_tokens=given.answer_tokens,
        profile=given.profile,
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.trace", description=__doc__)
    add_engine_options(parser)
    add_shape_option(parser)
    counts = ", ".join(f"{trace.files} for {name}" for name, trace in TRACES.items())
    parser.add_argument("--trace", choices=TRACES, default=EDITING.name, help="which steps are taken over which files")
    parser.add_argument(
        "--files", nargs="+", type=Path, default=(), help=f"files ({counts}) or a folder; else of Python's own library"
    )
    parser.add_argument("--file-tokens", type=_file_tokens, help="cut each file to about so many tokens (100 or more)")
    parser.add_argument("--repeat", type=positive, help="rounds, of which medians are shown")
    parser.add_argument("--answer-tokens", type=positive, default=1, help="with 2 or more, time per token is shown too")
    parser.add_argument("--profile", action="store_true", help="show where the engine's time goes")
    add_result_options(parser)
    return parser


def _file_tokens(text: str) -> int:
    """Long enough for KV behind an edit in the middle to be worth reusing, which the expected labels rely on."""
    number = int(text)
    if number < 100:
        raise argparse.ArgumentTypeError("must be at least 100")
    return number


if __name__ == "__main__":
    sys.exit(main())

"""An editing trace over real files: time to the first token and tokens computed at each step, on both sides.

Open six files, ask; edit the first, ask; drop one, ask; reorder, ask: this engine, and in the same run plain
transformers with a prefix cache. `python -m benchmarks.trace --help`; docs/benchmarks.md says what the figures mean.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks import machine, models
from benchmarks.baseline import PrefixCachedModel
from benchmarks.checks import differences, wrong_labels
from benchmarks.corpus import COUNT, find_files, trim
from benchmarks.options import add_engine_options, add_shape_option, engine_config, positive
from benchmarks.report import Report, rows
from benchmarks.rounds import play, warm_up
from benchmarks.sides import EngineSide, PeerSide, Side
from benchmarks.speeds import own_speeds
from benchmarks.stages import stage_times
from benchmarks.steps import Step, editing_trace
from engine.config import EngineConfig, Fidelity
from engine.errors import EngineError

PEER, EXACT, PAUSED, INSTANT, AUTO = "transformers", "exact", "exact, after a pause", "instant", "auto"


@dataclasses.dataclass(frozen=True)
class Options:
    """One run; `shape` stands in for the config's model, `tokens` and `files` say what is opened."""

    config: EngineConfig
    shape: str | None = None
    files: tuple[Path, ...] = ()
    tokens: int = 400
    repeat: int = 3
    answer_tokens: int = 1
    profile: bool = False


def run(options: Options) -> Report:
    """Load the model for both sides, warm up, and go through the trace `repeat` times.

    Raises:
        EngineError, ValueError: the model can't be loaded, the files can't be used or are too long for it.
    """
    config = _engine_config(options)
    found = find_files(options.files)
    loaded = (
        models.make_random(config, options.shape, [f.text for f in found]) if options.shape else models.load(config)
    )
    tokenizer = loaded.engine.tokenizer

    def count(text: str) -> int:
        return len(tokenizer.encode(text, special=False))

    files = [trim(file, options.tokens, count) for file in found]
    sides = _sides(loaded, config, options)
    warm_up(sides, files, on_cpu=loaded.engine.device.type == "cpu")
    steps = editing_trace(files)
    samples = [sample for number in range(options.repeat) for sample in play(sides, steps, number)]
    return Report(
        title=f"Editing trace over {len(files)} files with {options.shape or config.model}"
        f" ({'random weights, ' if options.shape else ''}{str(loaded.engine.dtype).removeprefix('torch.')})",
        settings={**dataclasses.asdict(config), "shape": options.shape, "rounds": options.repeat},
        machine=machine.describe(loaded.engine.device),
        files={file.name: count(file.text) for file in files},
        rows=tuple(rows(samples, PEER)),
        disagreements=tuple(differences(samples, PEER, (EXACT, PAUSED))),
        differing=tuple(differences(samples, EXACT, (INSTANT, AUTO))),
        wrong_labels=tuple(wrong_labels(samples, steps, INSTANT, AUTO)),
        stages=_stages(loaded, config, steps) if options.profile else {},
    )


def _engine_config(options: Options) -> EngineConfig:
    """The config with a KV pool that holds everything a trace computes: each step at most the whole prompt."""
    prompt = COUNT * (options.tokens + 128) + 1024 + options.answer_tokens
    room = options.config.kv_cache_tokens or 5 * prompt
    return dataclasses.replace(options.config, kv_cache_tokens=room)


def _sides(loaded: models.Models, config: EngineConfig, options: Options) -> list[Side]:
    device, tokenizer, count = loaded.engine.device, loaded.engine.tokenizer, options.answer_tokens

    def engine_side(name: str, fidelity: Fidelity, *, pause: bool = False) -> EngineSide:
        model = loaded.engine if name == EXACT else loaded.another(config)
        return EngineSide(name, model, config, fidelity=fidelity, pause=pause, answer_tokens=count)

    return [
        PeerSide(PEER, PrefixCachedModel(loaded.peer, device), tokenizer, device, answer_tokens=count),
        engine_side(EXACT, "exact"),
        engine_side(PAUSED, "exact", pause=True),
        engine_side(INSTANT, "instant"),
        engine_side(AUTO, "auto"),
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
    given = _parser().parse_args(arguments)
    try:
        with own_speeds():
            report = run(_options(given))
    except (EngineError, ValueError) as error:
        print(f"benchmarks.trace: {error}", file=sys.stderr)
        return 2
    print(report)
    if given.json:
        given.json.write_text(json.dumps(report.as_json(), indent=1) + "\n", encoding="utf-8")
    return 1 if report.wrong_labels else 0


def _options(given: argparse.Namespace) -> Options:
    return Options(
        config=engine_config(given),
        shape=given.random_shape,
        files=tuple(given.files),
        tokens=given.file_tokens,
        repeat=given.repeat,
        answer_tokens=given.answer_tokens,
        profile=given.profile,
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.trace", description=__doc__)
    add_engine_options(parser)
    add_shape_option(parser)
    parser.add_argument(
        "--files", nargs="+", type=Path, default=(), help=f"{COUNT} files or a folder; else of Python's own library"
    )
    parser.add_argument(
        "--file-tokens", type=_file_tokens, default=400, help="cut each file to about so many tokens (100 or more)"
    )
    parser.add_argument("--repeat", type=positive, default=3, help="rounds, of which medians are shown")
    parser.add_argument("--answer-tokens", type=positive, default=1, help="with 2 or more, time per token is shown too")
    parser.add_argument("--profile", action="store_true", help="show where the engine's time goes")
    parser.add_argument("--json", type=Path, help="write everything to this file")
    return parser


def _file_tokens(text: str) -> int:
    """Long enough for KV behind an edit in the middle to be worth reusing, which the expected labels rely on."""
    number = int(text)
    if number < 100:
        raise argparse.ArgumentTypeError("must be at least 100")
    return number


if __name__ == "__main__":
    sys.exit(main())

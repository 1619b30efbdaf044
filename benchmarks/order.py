"""What each order costs over a long editing session: an edited file goes to the end (`recency`) or stays (`fixed`).

Both go through the very same session, asked exactly, instantly, and automatically with background work in pauses.
`python -m benchmarks.order --help`; docs/benchmarks.md says what the figures mean.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from itertools import product
from pathlib import Path

from benchmarks import machine, models
from benchmarks.corpus import find_files, trim
from benchmarks.options import add_engine_options, add_shape_option, engine_config, positive
from benchmarks.order_report import Report, plot
from benchmarks.play import Played, Way, play
from benchmarks.session import SCATTERED, USUAL, session
from benchmarks.speeds import own_speeds
from engine.config import EngineConfig, Order
from engine.errors import EngineError

FILES = 9
ORDERS: tuple[Order, ...] = ("recency", "fixed")
_FRAME = 128
"""Tokens of a file's frame and of what its edits add, at most."""


@dataclass(frozen=True)
class Options:
    """One run; `shape` stands in for the config's model.

    Attributes:
        pause: tokens computed in the background behind each action.
        scattered: every edit is in any file, whatever was edited before.
    """

    config: EngineConfig
    shape: str | None = None
    files: tuple[Path, ...] = ()
    tokens: int = 200
    steps: int = 200
    pause: int = 128
    seed: int = 1
    scattered: bool = False


def run(options: Options) -> Report:
    """Play the session in every way and order.

    Raises:
        EngineError, ValueError: the model can't be loaded, the files can't be used or are too long for it.
    """
    found = find_files(options.files, FILES)
    config = _with_room(options)
    model = models.load_engine(config, options.shape, [file.text for file in found])

    def count(text: str) -> int:
        return len(model.tokenizer.encode(text, special=False))

    files = [trim(file, options.tokens, count) for file in found]
    actions = session(files, options.steps, options.seed, SCATTERED if options.scattered else USUAL)
    ways = (
        Way("exact, at once", "exact"),
        Way("instant, at once", "instant"),
        Way("auto, with pauses", "auto", options.pause),
    )
    played = []
    with own_speeds():
        for way, order in product(ways, ORDERS):
            print(f"{way.name}, {order} …", file=sys.stderr, flush=True)
            played.append(play(model, config, actions, order, way))
    _check_same(played)
    return Report(
        title=f"{options.steps} steps over {FILES} files of {options.tokens} tokens, {options.shape or config.model}",
        settings=asdict(options),
        machine=machine.describe(model.device),
        actions=dict(Counter(action.what for action in actions)),
        played=tuple(played),
    )


def _with_room(options: Options) -> EngineConfig:
    """The config with a KV pool for four times what is ever open."""
    room = 4 * (FILES * (options.tokens + _FRAME) + 1024)
    return replace(options.config, kv_cache_tokens=options.config.kv_cache_tokens or room)


def _check_same(played: Sequence[Played]) -> None:
    """AssertionError unless all were asked the same: prompts are as long in every order and way."""
    prompts = {tuple(answer.computed + answer.reused for answer in one.answers) for one in played}
    assert len(prompts) == 1, "the sessions differ"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark as `arguments` say; 2 if it can't run."""
    given = _parser().parse_args(arguments)
    options = Options(
        config=engine_config(given),
        shape=given.random_shape,
        files=tuple(given.files),
        tokens=given.file_tokens,
        steps=given.steps,
        pause=given.pause_tokens,
        seed=given.seed,
        scattered=given.scattered,
    )
    try:
        report = run(options)
    except (EngineError, ValueError) as error:
        print(f"benchmarks.order: {error}", file=sys.stderr)
        return 2
    print(report)
    if given.json:
        given.json.write_text(json.dumps(report.as_json(), indent=1, default=str) + "\n", encoding="utf-8")
    if given.plot:
        plot(report, given.plot)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.order", description=__doc__)
    add_engine_options(parser)
    add_shape_option(parser)
    parser.add_argument("--files", nargs="+", type=Path, default=(), help=f"{FILES} files or a folder; else Python's")
    parser.add_argument("--file-tokens", type=positive, default=200, help="cut each file to about so many tokens")
    parser.add_argument("--steps", type=positive, default=200, help="edits, questions, switches and so on")
    parser.add_argument("--pause-tokens", type=positive, default=128, help="computed in the background behind each")
    parser.add_argument("--seed", type=int, default=1, help="of the session")
    parser.add_argument("--scattered", action="store_true", help="every edit is in any file, and asked about")
    parser.add_argument("--json", type=Path, help="write everything to this file")
    parser.add_argument("--plot", type=Path, help="draw tokens computed over the steps to this file (.svg, .png)")
    return parser


if __name__ == "__main__":
    sys.exit(main())

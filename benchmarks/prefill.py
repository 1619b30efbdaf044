"""Time to the first token of prompts that are cold, or behind a warm prefix, and beside it transformers in one pass.

`python -m benchmarks.prefill --help`; docs/benchmarks.md says what the figures mean.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from benchmarks import ceilings, machine, models
from benchmarks.goals import SHAPE
from benchmarks.options import add_engine_options, add_shape_option, engine_config, positive
from benchmarks.prefill_report import Report, Row, plot
from benchmarks.prefill_ways import cold_ways, measure, ways_behind
from benchmarks.results import add_result_options, deliver
from benchmarks.speeds import own_speeds
from benchmarks.warm_context import Texts, all_files
from engine import Engine
from engine.config import EngineConfig
from engine.model import LoadedModel
from engine.models.decoder import Decoder

TOKENS = (2048, 8192, 32768)
BEFORE = (6144,)
NEW = (512,)


@dataclass(frozen=True)
class Options:
    """One run; `shape` stands in for the config's model.

    Attributes:
        tokens: lengths of cold prompts.
        before, new: lengths of warm prefixes, and how many tokens are computed behind each.
    """

    config: EngineConfig
    shape: str | None = None
    tokens: tuple[int, ...] = TOKENS
    before: tuple[int, ...] = BEFORE
    new: tuple[int, ...] = NEW
    repeat: int = 3


def run(options: Options) -> Report:
    """Prefill on both sides.

    Raises:
        EngineError, ValueError: the model can't be loaded, or is no decoder of the Llama family.
    """
    files = all_files()
    config = replace(options.config, kv_cache_tokens=options.config.kv_cache_tokens or _room(options))
    loaded = models.load_both(config, options.shape, [file.text for file in files])
    model = loaded.engine
    if not isinstance(model.decoder, Decoder):
        raise ValueError("its floor is known for the Llama family only")
    return Report(
        title=f"Prefill with {options.shape or config.model}, {str(model.dtype).removeprefix('torch.')}",
        settings=asdict(options),
        machine=machine.describe(model.device),
        ceilings=ceilings.measure(model.device, model.dtype),
        work=ceilings.Work.of(model.decoder.config, model.dtype),
        rows=tuple(_rows(model, loaded.peer, config, Texts(model.tokenizer, files), options)),
        with_goals=options.shape == SHAPE,
    )


def _room(options: Options) -> int:
    """Tokens of KV for a cold prompt and another, or for the warm prefixes and what comes behind each."""
    cold = 2 * max(options.tokens, default=0)
    warm = 4 * max(options.before, default=0) + 4 * (2 + options.repeat) * max(options.new, default=0)
    return max(cold, warm) + 8192


def _rows(model: LoadedModel, peer: Any, config: EngineConfig, texts: Texts, options: Options) -> Iterator[Row]:
    with Engine(config, model=model) as engine:
        for tokens in options.tokens:
            yield from measure(cold_ways(engine, peer, texts, tokens), tokens, 0, options.repeat)
    for before in options.before:
        for new in options.new:
            with Engine(config, model=model) as engine:
                yield from measure(ways_behind(engine, peer, texts, new, before), new, before, options.repeat)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark as `arguments` say; 2 if it can't run."""
    parser = _parser()
    given = parser.parse_args(arguments)

    def measure() -> Report:
        with own_speeds():
            lengths = (tuple(given.tokens), tuple(given.before), tuple(given.new))
            return run(Options(engine_config(given), given.random_shape, *lengths, given.repeat))

    return deliver(parser, given, measure, plot)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.prefill", description=__doc__)
    add_engine_options(parser)
    add_shape_option(parser)
    parser.add_argument("--tokens", nargs="*", type=positive, default=TOKENS, help="lengths of cold prompts")
    parser.add_argument("--before", nargs="*", type=positive, default=BEFORE, help="lengths of warm prefixes")
    parser.add_argument("--new", nargs="+", type=positive, default=NEW, help="tokens that are computed behind each")
    parser.add_argument("--repeat", type=positive, default=3, help="times, of which medians are shown")
    add_result_options(parser)
    return parser


if __name__ == "__main__":
    sys.exit(main())

"""Milliseconds per decoded token at several lengths of context, by this engine and, in the same run, by its peers.

The engine decodes over one chunk, over 32, and over 32 of 40 that were dropped and moved about.
`python -m benchmarks.decode --help`; docs/benchmarks.md says what the figures mean.
"""

from __future__ import annotations

import argparse
import gc
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from benchmarks import ceilings, machine, models
from benchmarks.decode_engine import decode_rows, with_room
from benchmarks.decode_outside import Asked, Peers, Remarks, outside_rows
from benchmarks.decode_peers import EAGER, GRAPH, eager_step, graph_step, time_steps
from benchmarks.decode_report import Report, Row, plot
from benchmarks.goals import SHAPE
from benchmarks.options import add_engine_options, add_shape_option, engine_config, positive
from benchmarks.results import add_result_options, deliver
from benchmarks.speeds import own_speeds
from benchmarks.warm_context import Texts, all_files
from engine.config import EngineConfig
from engine.models.decoder import Decoder

CONTEXTS = (512, 8192, 32768)


@dataclass(frozen=True)
class Options:
    """One run; `shape` stands in for the config's model.

    Attributes:
        contexts: lengths in tokens.
        tokens: decoded for each; `at_once` answers are decoded together too.
        peers: those that take part in a process of their own.
        profile: also show how long the GPU works for a token.
    """

    config: EngineConfig
    shape: str | None = None
    contexts: tuple[int, ...] = CONTEXTS
    tokens: int = 64
    at_once: int = 4
    peers: Peers = field(default_factory=Peers)
    profile: bool = False


def run(options: Options) -> Report:
    """Decode on all sides.

    Raises:
        EngineError, ValueError: the model can't be loaded, or is no decoder of the Llama family.
    """
    files = all_files()
    config = with_room(options.config, options.contexts)
    loaded = models.load_both(config, options.shape, [file.text for file in files])
    model = loaded.engine
    if not isinstance(model.decoder, Decoder):
        raise ValueError("its floor is known for the Llama family only")
    limits = ceilings.measure(model.device, model.dtype)
    texts = Texts(model.tokenizer, files)
    contexts, tokens = options.contexts, options.tokens
    rows = decode_rows(model, config, texts, contexts, tokens, options.at_once, options.profile)
    remarks = Remarks()
    rows += _transformers(loaded.peer, contexts, tokens, remarks.failed)
    described = machine.describe(model.device)
    packed_bytes = sum(matrix.data.numel() for matrix in model.decoder.packed.values())
    work = ceilings.Work.of(model.decoder.config, model.dtype, packed_bytes)
    dtype = model.dtype
    del loaded, model
    _give_back()
    asked = Asked(config.model, options.shape, config.device, dtype, torch.get_num_threads(), contexts, tokens)
    rows += outside_rows(options.peers, asked, remarks)
    return Report(
        title=f"Decoding with {options.shape or config.model}, {str(dtype).removeprefix('torch.')}",
        settings=asdict(options),
        machine=described,
        ceilings=limits,
        work=work,
        rows=tuple(sorted(rows, key=lambda row: contexts.index(row.context))),
        notes=tuple(remarks.notes),
        failed=tuple(remarks.failed),
        with_goals=options.shape == SHAPE,
    )


def _give_back() -> None:
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _transformers(peer: Any, contexts: Sequence[int], tokens: int, failed: list[str]) -> Iterator[Row]:
    """transformers as it is called, and on a GPU in a graph."""
    ways: dict[str, Callable[[int], Callable[[], int]]] = {EAGER: lambda context: eager_step(peer, context)}
    if peer.device.type == "cuda":
        ways[GRAPH] = lambda context: graph_step(peer, context, tokens)
    for name, make in ways.items():
        for context in contexts:
            try:
                found = time_steps(make(context), tokens)
            except RuntimeError as error:
                failed.append(f"{name} at {context:,}: {str(error).splitlines()[0]}")
                continue
            yield Row(context, name, "", 1, *found, prompt=context)
            _give_back()


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark as `arguments` say; 2 if it can't run."""
    parser = _parser()
    given = parser.parse_args(arguments)

    def measure() -> Report:
        with own_speeds():
            return run(_options(given))

    return deliver(parser, given, measure, plot)


def _options(given: argparse.Namespace) -> Options:
    return Options(
        config=engine_config(given),
        shape=given.random_shape,
        contexts=tuple(given.contexts),
        tokens=given.tokens,
        at_once=given.at_once,
        peers=Peers(given.compile_limit, given.gpt_fast, given.llama_cpp),
        profile=given.profile,
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.decode", description=__doc__)
    add_engine_options(parser)
    add_shape_option(parser)
    parser.add_argument("--contexts", nargs="+", type=positive, default=CONTEXTS, help="lengths in tokens")
    parser.add_argument("--tokens", type=positive, default=64, help="decoded for each figure")
    parser.add_argument("--at-once", type=positive, default=4, help="answers decoded together in one more row")
    parser.add_argument(
        "--compile-limit", type=float, default=0, help="seconds for each peer that compiles; 0: without them"
    )
    parser.add_argument("--gpt-fast", type=Path, help="a checkout of gpt-fast, for the shape llama-3.1-8b")
    parser.add_argument(
        "--llama-cpp", type=Path, metavar="PYTHON", help="one that has llama_cpp or xllamacpp, for a model's own GGUF"
    )
    parser.add_argument("--profile", action="store_true", help="show how long the GPU works for a token")
    add_result_options(parser)
    return parser


if __name__ == "__main__":
    sys.exit(main())

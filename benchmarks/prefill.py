"""Time to the first token of a cold prompt, in one chunk and in 32, and beside it transformers in one pass.

`python -m benchmarks.prefill --help`; docs/benchmarks.md says what the figures mean.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from statistics import median
from typing import Any

import torch

from benchmarks import ceilings, machine, models
from benchmarks.clock import timed
from benchmarks.decode_report import MANY, ONE
from benchmarks.goals import SHAPE
from benchmarks.options import add_engine_options, add_shape_option, engine_config, positive
from benchmarks.prefill_report import ENGINE, PEER, Report, Row, plot
from benchmarks.results import add_result_options, deliver
from benchmarks.speeds import own_speeds
from benchmarks.warm_context import CHUNKS, Texts, all_files, ask, fresh_contexts, open_chunks
from engine import Engine
from engine.config import EngineConfig
from engine.model import LoadedModel
from engine.models.decoder import Decoder

TOKENS = (2048, 8192, 32768)
_SHARED = 128
"""Most tokens that prompts have in common: the head, and the frame of the first chunk."""


@dataclass(frozen=True)
class Options:
    """One run; `shape` stands in for the config's model, `tokens` are the prompts' lengths."""

    config: EngineConfig
    shape: str | None = None
    tokens: tuple[int, ...] = TOKENS
    repeat: int = 3


def run(options: Options) -> Report:
    """Prefill on both sides.

    Raises:
        EngineError, ValueError: the model can't be loaded, or is no decoder of the Llama family.
    """
    files = all_files()
    room = options.config.kv_cache_tokens or 2 * max(options.tokens) + 4096
    config = replace(options.config, kv_cache_tokens=room)
    loaded = models.load_both(config, options.shape, [file.text for file in files])
    model = loaded.engine
    if not isinstance(model.decoder, Decoder):
        raise ValueError("its floor is known for the Llama family only")
    texts = Texts(model.tokenizer, files)
    rows = [*_engine(model, config, texts, options), *_transformers(loaded.peer, texts, options)]
    return Report(
        title=f"Cold prefill with {options.shape or config.model}, {str(model.dtype).removeprefix('torch.')}",
        settings=asdict(options),
        machine=machine.describe(model.device),
        ceilings=ceilings.measure(model.device, model.dtype),
        work=ceilings.Work.of(model.decoder.config, model.dtype),
        rows=tuple(sorted(rows, key=lambda row: options.tokens.index(row.tokens))),
        with_goals=options.shape == SHAPE,
    )


def _engine(model: LoadedModel, config: EngineConfig, texts: Texts, options: Options) -> Iterator[Row]:
    """Each prompt is new text in a new context, behind one that is not counted."""
    with Engine(config, model=model) as engine:
        fresh = fresh_contexts(engine)
        for tokens in options.tokens:
            for layout, chunks in ((ONE, 1), (MANY, CHUNKS)):
                found = []
                for _ in range(1 + options.repeat):
                    context = next(fresh)
                    open_chunks(context, texts, tokens, chunks)
                    found.append(ask(context, 1, "exact"))
                usage = found[-1].done.usage
                if usage.reused_tokens > _SHARED:
                    raise ValueError(f"{usage.reused_tokens} of {usage.prompt_tokens} tokens were not cold")
                seconds = [answer.first for answer in found[1:]]
                yield Row(tokens, ENGINE, layout, median(seconds), usage.prefilled_tokens, tuple(seconds))


def _transformers(peer: Any, texts: Texts, options: Options) -> Iterator[Row]:
    """One pass over as many token ids, SDPA, only the last token's logits."""
    for tokens in options.tokens:
        ids = torch.tensor([texts.ids(tokens)], device=peer.device)

        @torch.inference_mode()
        def prefill(ids: torch.Tensor = ids) -> int:
            return int(peer(ids, use_cache=True, logits_to_keep=1).logits[0, -1].argmax())

        prefill()
        seconds = [timed(peer.device, prefill) for _ in range(options.repeat)]
        yield Row(tokens, PEER, "one pass", median(seconds), tokens, tuple(seconds))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark as `arguments` say; 2 if it can't run."""
    parser = _parser()
    given = parser.parse_args(arguments)

    def measure() -> Report:
        with own_speeds():
            return run(Options(engine_config(given), given.random_shape, tuple(given.tokens), given.repeat))

    return deliver(parser, given, measure, plot)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.prefill", description=__doc__)
    add_engine_options(parser)
    add_shape_option(parser)
    parser.add_argument("--tokens", nargs="+", type=positive, default=TOKENS, help="lengths of the prompts")
    parser.add_argument("--repeat", type=positive, default=3, help="times, of which medians are shown")
    add_result_options(parser)
    return parser


if __name__ == "__main__":
    sys.exit(main())

"""What KV in 8 bits costs: how far the next token's distribution is from that over KV in the model's own dtype.

Over real source files, exactly prefilled, behind each token of two questions and their answers. Beside the engine's own
dtypes stand roundings that it doesn't do. `python -m benchmarks.kv_dtype --help`.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import get_args

import torch
from torch import Tensor

from benchmarks import machine
from benchmarks.divergence import Divergence
from benchmarks.fidelity_sets import Loaded, load_sets
from benchmarks.kv_roundings import ROUNDINGS, Rounding, RoundingPool
from benchmarks.options import add_engine_options, engine_config, positive
from benchmarks.reader import Reader
from benchmarks.table import layout
from engine.attention.torch_attention import TorchAttention
from engine.config import EngineConfig, KVDType
from engine.errors import EngineError
from engine.kv.pool import bytes_per_token
from engine.model import LoadedModel, equip, load_model

POOL_TOKENS = 8192
_HEADINGS = ("KV", "bytes/token", "KL", "worst", "top-1", "worst", "same answer")


@dataclass(frozen=True)
class Asked:
    """Token ids of a question and the answer over unrounded KV, and its logits behind each, float32 [n, vocab]."""

    ids: Sequence[int]
    answer: int
    logits: Tensor


@dataclass(frozen=True)
class Sample:
    """One question about one set over KV that is kept in one way; `bytes` are of a token, None if no pool does it."""

    kv: str
    set: str
    question: str
    bytes: int | None
    divergence: Divergence


@dataclass(frozen=True)
class Report:
    """Its string is what the benchmark prints."""

    model: str
    machine: dict[str, str | int | float]
    sets: tuple[str, ...]
    own_bytes: int
    samples: tuple[Sample, ...]

    def __str__(self) -> str:
        lines = [_HEADINGS, ("as the model computes", f"{self.own_bytes:,}", *[""] * 5)]
        lines += [self._line(kv) for kv in dict.fromkeys(sample.kv for sample in self.samples)]
        title = f"KV of {self.model} over {', '.join(self.sets)} ({machine.in_words(self.machine)})"
        return f"{title}\n\n{layout(lines, left=(0,))}"

    def _line(self, kv: str) -> tuple[str, ...]:
        samples = [sample for sample in self.samples if sample.kv == kv]
        kl = [sample.divergence.kl for sample in samples]
        top1 = [sample.divergence.top1 for sample in samples]
        same = sum(sample.divergence.same_answer for sample in samples)
        size = "" if samples[0].bytes is None else f"{samples[0].bytes:,}"
        figures = (f"{fmean(kl):.5f}", f"{max(kl):.5f}", f"{fmean(top1):.3f}", f"{min(top1):.3f}")
        return (kv, size, *figures, f"{same}/{len(samples)}")


def run(model: LoadedModel, config: EngineConfig, *, sets: int, files: int, answer_tokens: int, more: bool) -> Report:
    """Every set's first `files` files in every way of keeping KV; `more` takes roundings that no pool does, too."""

    def count(text: str) -> int:
        return len(model.tokenizer.encode(text, special=False))

    found = [replace(loaded, files=loaded.files[:files]) for loaded in load_sets(count, sets)]
    samples: list[Sample] = []
    for loaded in found:
        samples += _measure(model, config, loaded, answer_tokens, more)
    return Report(
        model=config.model,
        machine=machine.describe(model.device) | {"dtype": str(model.dtype).removeprefix("torch.")},
        sets=tuple(loaded.set.package for loaded in found),
        own_bytes=_bytes(model),
        samples=tuple(samples),
    )


def _measure(
    model: LoadedModel, config: EngineConfig, loaded: Loaded, answer_tokens: int, more: bool
) -> Iterator[Sample]:
    questions = _ask(model, config, loaded, answer_tokens)
    for kv, scaled, known in _ways(model, config, more):
        print(f"{loaded.set.package}: {kv}", file=sys.stderr, flush=True)
        for kind, logits in _read(scaled, config, loaded, questions):
            asked = questions[kind]
            size = _bytes(scaled) if known else None
            yield Sample(kv, loaded.set.package, kind, size, Divergence.of(logits, asked.logits, asked.answer))


def _ways(model: LoadedModel, config: EngineConfig, more: bool) -> Iterator[tuple[str, LoadedModel, bool]]:
    """The model over KV kept in each way, and whether the engine has a pool that does."""
    names: tuple[KVDType, ...] = get_args(KVDType)
    for name in names:
        if name != "auto":
            settings = replace(config, kv_dtype=name)
            yield name, equip(settings, model.decoder, model.tokenizer, model.model_fingerprint), True
    for rounding in ROUNDINGS if more else ():
        yield rounding.name, _rounding(model, rounding), False


def _rounding(model: LoadedModel, rounding: Rounding) -> LoadedModel:
    like = model.pool
    pool = RoundingPool(_heads(model), like.num_blocks, like.block_size, dtype=model.dtype, device=model.device)
    pool.rounding = rounding
    return replace(model, pool=pool, attention=TorchAttention(pool, model.decoder.rotary, model.decoder.layers))


def _ask(model: LoadedModel, config: EngineConfig, loaded: Loaded, answer_tokens: int) -> dict[str, Asked]:
    reader = Reader(model, config.block_size, config.slice_tokens)
    prefill = reader.compute(reader.context("asked", loaded.files), None)
    asked = {}
    for kind, text in loaded.questions:
        tail = reader.tail(text)
        answer = reader.greedy(prefill, tail, answer_tokens)
        asked[kind] = Asked([*tail, *answer], len(answer), reader.logits(prefill, [*tail, *answer]))
    prefill.close()
    return asked


def _read(
    model: LoadedModel, config: EngineConfig, loaded: Loaded, questions: dict[str, Asked]
) -> Iterator[tuple[str, Tensor]]:
    """The logits behind the same token ids over the same files."""
    reader = Reader(model, config.block_size, config.slice_tokens)
    prefill = reader.compute(reader.context("read", loaded.files), None)
    for kind, asked in questions.items():
        yield kind, reader.logits(prefill, asked.ids)
    prefill.close()


def _bytes(model: LoadedModel) -> int:
    return bytes_per_token(_heads(model), model.pool.keys[0].dtype)


def _heads(model: LoadedModel) -> list[tuple[int, int]]:
    return [(layer.num_kv_heads, layer.head_dim) for layer in model.decoder.layers]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark as `arguments` say; 2 if it can't run."""
    given = _parser().parse_args(arguments)
    config = replace(engine_config(given), kv_dtype="auto", kv_cache_tokens=POOL_TOKENS)
    sizes = {"sets": given.sets, "files": given.files, "answer_tokens": given.answer_tokens}
    try:
        with torch.inference_mode():
            report = run(load_model(config), config, **sizes, more=given.roundings)
    except EngineError as error:
        print(f"benchmarks.kv_dtype: {error}", file=sys.stderr)
        return 2
    print(report)
    if given.json:
        given.json.write_text(json.dumps(asdict(report), indent=1) + "\n", encoding="utf-8")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.kv_dtype", description=__doc__)
    add_engine_options(parser, dtype="float32")
    parser.add_argument("--sets", type=positive, default=100, help="sets of files, at most")
    parser.add_argument("--files", type=positive, default=6, help="files of a set")
    parser.add_argument("--answer-tokens", type=positive, default=40)
    parser.add_argument("--roundings", action="store_true", help="also roundings that no pool does")
    parser.add_argument("--json", type=Path, help="write everything to this file")
    return parser


if __name__ == "__main__":
    sys.exit(main())

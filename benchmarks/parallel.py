"""Milliseconds per decoded token by one GPU and by several that share the model, over contexts of several lengths.

The same random weights on all sides. `python -m benchmarks.parallel --help`; docs/benchmarks.md says more.
"""

from __future__ import annotations

import argparse
import gc
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks import machine
from benchmarks.decode_engine import decode_rows
from benchmarks.decode_report import ONE, Row
from benchmarks.drawing import pyplot_for, save
from benchmarks.options import add_engine_options, engine_config, positive
from benchmarks.random_model import SHAPES, load_random_shard, make_random_decoder, make_tokenizer
from benchmarks.results import add_result_options, deliver
from benchmarks.speeds import own_speeds
from benchmarks.table import layout, milliseconds
from benchmarks.warm_context import Texts, all_files
from engine.config import EngineConfig
from engine.device import choose_devices, choose_dtype
from engine.model import LoadedModel, equip, equip_shards
from engine.tokenizer import Tokenizer

_ROOM = 16 * 1024
"""Tokens of KV besides; less than `benchmarks.decode` has, as a model may nearly fill its GPUs."""


@dataclass(frozen=True)
class Report:
    """What a run found out; `rows` has for each number of GPUs the rows of `benchmarks.decode`."""

    title: str
    machine: dict[str, Any]
    rows: tuple[tuple[int, Row], ...]
    wrong: tuple[str, ...] = ()

    def as_json(self) -> dict[str, Any]:
        rows = [{"gpus": size, **asdict(row)} for size, row in self.rows]
        return {"title": self.title, "machine": self.machine, "rows": rows}

    def __str__(self) -> str:
        lines = [["GPUs", "context", "layout", "answers", "ms/token", "mean"]]
        for size, row in self.rows:
            times = milliseconds(row.per_token), milliseconds(row.mean)
            lines.append([str(size), f"{row.context:,}", row.layout, str(row.answers), *times])
        return "\n".join([self.title, machine.in_words(self.machine), "", layout(lines, left={2})])


def run(config: EngineConfig, shape: str, sizes: Sequence[int], contexts: Sequence[int], tokens: int) -> Report:
    """Decode by each of `sizes` GPUs.

    Raises:
        EngineError: there are too few, or the model does not fit.
    """
    files = all_files()
    texts = Texts(make_tokenizer([file.text for file in files], SHAPES[shape]["vocab_size"]), files)
    device = choose_devices(config)[0]
    config = replace(config, kv_cache_tokens=3 * max(contexts) + _ROOM)
    rows = tuple(_rows(config, shape, sizes, texts, contexts, tokens))
    return Report(f"Decoding with {shape} on several GPUs", machine.describe(device), rows)


def _rows(
    config: EngineConfig, shape: str, sizes: Sequence[int], texts: Texts, contexts: Sequence[int], tokens: int
) -> Iterator[tuple[int, Row]]:
    for size in sizes:
        of_size = replace(config, tensor_parallel_size=size)
        model = load(of_size, SHAPES[shape], texts.tokenizer)
        try:
            for row in decode_rows(model, of_size, texts, contexts, tokens, 4, False):
                yield size, row
        finally:
            model.close()
        del model
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def load(config: EngineConfig, fields: Mapping[str, Any], tokenizer: Tokenizer) -> LoadedModel:
    """A random model of a shape (a value of `SHAPES`) on as many GPUs as `config` says."""
    devices = choose_devices(config)
    dtype = choose_dtype(config, devices[0])
    if len(devices) > 1:
        return equip_shards(config, partial(load_random_shard, fields=fields, dtype=dtype), devices, tokenizer)
    decoder, fingerprint = make_random_decoder(fields, devices[0], dtype)
    return equip(config, decoder, tokenizer, fingerprint)


def plot(report: Mapping[str, Any], path: Path) -> None:
    """Milliseconds per token over the length of the context, a line per number of GPUs, from a report's JSON."""
    pyplot = pyplot_for(path)
    if pyplot is None:
        return
    figure, axes = pyplot.subplots(figsize=(6.4, 4))
    rows = [row for row in report["rows"] if row["answers"] == 1 and row["layout"] == ONE]
    for size in dict.fromkeys(row["gpus"] for row in rows):
        points = [(row["context"], 1e3 * row["per_token"]) for row in rows if row["gpus"] == size]
        axes.plot(*zip(*points, strict=True), marker="o", label=f"{size} GPUs" if size > 1 else "1 GPU")
    axes.set(xlabel="tokens of context", ylabel="ms per token", title=report["title"])
    axes.legend(frameon=False)
    figure.tight_layout()
    save(pyplot, figure, path)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark as `arguments` say; 2 if it can't run."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.parallel", description=__doc__)
    add_engine_options(parser)
    parser.add_argument("--random-shape", choices=sorted(SHAPES), default="qwen2.5-7b", help="the model's shape")
    parser.add_argument("--sizes", nargs="+", type=positive, default=(1, 2), help="numbers of GPUs")
    parser.add_argument("--contexts", nargs="+", type=positive, default=(512, 8192), help="lengths in tokens")
    parser.add_argument("--tokens", type=positive, default=64, help="decoded for each figure")
    add_result_options(parser)
    given = parser.parse_args(arguments)

    def measure() -> Report:
        with own_speeds():
            return run(engine_config(given), given.random_shape, given.sizes, given.contexts, given.tokens)

    return deliver(parser, given, measure, plot)


if __name__ == "__main__":
    sys.exit(main())

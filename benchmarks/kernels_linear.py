"""How near the products of one token's row come to the memory's bandwidth: cuBLAS, and the engine's kernels.

`python -m benchmarks.kernels_linear` tries every way to launch them on the matrices of real models, which
`engine/models/kernels/row_launch.py` then chooses from. Weights are random, in more copies than the cache holds.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.clock import timed
from benchmarks.machine import describe, in_words
from benchmarks.random_model import SHAPES
from benchmarks.table import layout
from engine.models.decoder_ops import DecoderOps, TorchOps
from engine.models.kernels.row_launch import RowLaunch, row_launch
from engine.models.triton_ops import TritonOps

TOY = {"hidden_size": 40, "intermediate_size": 24, "num_attention_heads": 2, "num_key_value_heads": 1, "vocab_size": 50}
"""For a try without a GPU."""

CANDIDATES = tuple(
    RowLaunch(*numbers)
    for numbers in (
        (1, 1024, 4),
        (1, 2048, 4),
        (1, 4096, 8),
        (2, 512, 2),
        (2, 1024, 4),
        (2, 2048, 4),
        (2, 2048, 8),
        (4, 256, 1),
        (4, 512, 2),
        (4, 512, 4),
        (4, 1024, 4),
        (4, 1024, 8),
        (4, 2048, 8),
        (8, 256, 2),
        (8, 512, 4),
        (8, 512, 8),
        (16, 256, 4),
    )
)

EPS = 1e-6
MEASURED_BYTES = 3 << 30
"""Read in one measurement, about: milliseconds on the quickest devices."""
CACHES = 4
"""The copies of a matrix take so many times the device's cache."""
REPEATS = 3
TOKENS = (1, 4, 16)
"""Rows of x that cuBLAS is measured with."""


@dataclass(frozen=True)
class Product:
    """One matrix [outputs, inputs] of a model, and the operation it is used in."""

    model: str
    name: str
    outputs: int
    inputs: int

    def run(self, ops: DecoderOps, x: Tensor, total: Tensor, norm: Tensor, weight: Tensor) -> None:
        """x [T, inputs], total [T, outputs], norm [inputs] and weight [outputs, inputs]."""
        if self.name == "qkv":
            ops.norm_linear(x, norm, weight, None)
        elif self.name == "gate_up":
            ops.norm_gated(x, norm, weight, None)
        elif self.name == "head":
            ops.logits(x, weight)
        else:
            ops.add_linear_(total, x, weight, None)


@dataclass(frozen=True)
class LinearRow:
    """One way to compute one product. `bandwidth` is bytes of weights per second, `share` that of a device copy's."""

    model: str
    product: str
    outputs: int
    inputs: int
    way: str
    seconds: float
    bandwidth: float
    share: float


def products(model: str, shape: dict[str, int]) -> list[Product]:
    """What decoding a token multiplies, once per layer each, and the head."""
    hidden, inner, heads = shape["hidden_size"], shape["intermediate_size"], shape["num_attention_heads"]
    head_dim = shape.get("head_dim", hidden // heads)
    return [
        Product(model, "qkv", (heads + 2 * shape["num_key_value_heads"]) * head_dim, hidden),
        Product(model, "output", hidden, heads * head_dim),
        Product(model, "gate_up", 2 * inner, hidden),
        Product(model, "down", hidden, inner),
        Product(model, "head", shape["vocab_size"], hidden),
    ]


def linear_rows(device: torch.device, models: Sequence[str] = tuple(SHAPES)) -> list[LinearRow]:
    """All products of these models: as cuBLAS computes them alone, and each candidate. Toy shapes without a GPU."""
    found = [product for own in _products(device, models) for product in own]
    candidates = CANDIDATES if device.type == "cuda" else (RowLaunch(2, 32, 1),)
    if device.type == "cuda":
        _compile_all(found, candidates)
    ceiling = copy_bandwidth(device)
    return [row for product in found for row in _rows_of(product, device, candidates, ceiling)]


def layer_rows(device: torch.device, models: Sequence[str] = tuple(SHAPES)) -> list[LinearRow]:
    """A layer's products in turn, norms and gate with them, no attention: plain torch, and the kernels by the rule."""
    ceiling = copy_bandwidth(device)
    return [row for own in _products(device, models) for row in _rows_of_layer(own[:4], device, ceiling)]


def _products(device: torch.device, models: Sequence[str]) -> list[list[Product]]:
    if device.type != "cuda":
        return [products("toy", TOY)]
    return [products(model, SHAPES[model]) for model in models]


def copy_bandwidth(device: torch.device) -> float:
    """Bytes that a copy within the device reads and writes per second."""
    size = (1 << 30) if device.type == "cuda" else 1 << 20
    source = torch.zeros(size, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return 2 * size / _seconds(device, [lambda: target.copy_(source)] * 4)


def _rows_of(
    product: Product, device: torch.device, candidates: Iterable[RowLaunch], ceiling: float
) -> Iterator[LinearRow]:
    x, norm, total, weights = _operands(product, device)
    calls = max(len(weights), min(128, MEASURED_BYTES // weights[0].nbytes)) if device.type == "cuda" else 1

    def measured(way: str, work: Callable[[Tensor], object]) -> LinearRow:
        seconds = _seconds(device, [partial(work, weights[i % len(weights)]) for i in range(calls)])
        return _row(product, way, seconds, weights[0].nbytes, ceiling)

    for tokens in TOKENS:
        way = f"F.linear{f', {tokens} tokens' if tokens > 1 else ''}"
        yield measured(way, partial(F.linear, _repeated(x, tokens)))
    for overlap in (False, True):
        for launch in candidates:
            ops = TritonOps(EPS, device, launch=partial(_always, launch), overlap=overlap)
            yield measured(_in_words(launch, overlap), partial(product.run, ops, x, total, norm))


def _rows_of_layer(layer: Sequence[Product], device: torch.device, ceiling: float) -> Iterator[LinearRow]:
    operands = [_operands(product, device) for product in layer]
    size = sum(weights[0].nbytes for *_, weights in operands)
    whole = Product(layer[0].model, "layer", 0, 0)
    ways: list[tuple[str, DecoderOps]] = [
        ("torch", TorchOps(EPS)),
        ("kernels", TritonOps(EPS, device, overlap=False)),
        ("kernels, overlapping", TritonOps(EPS, device)),
    ]
    for tokens in TOKENS:
        for way, ops in ways if tokens == 1 else ways[:2]:
            work = [
                partial(
                    product.run, ops, _repeated(x, tokens), _repeated(total, tokens), norm, weights[i % len(weights)]
                )
                for i in range(16 if device.type == "cuda" else 1)
                for product, (x, norm, total, weights) in zip(layer, operands, strict=True)
            ]
            named = f"{way}{f', {tokens} tokens' if tokens > 1 else ''}"
            yield _row(whole, named, _seconds(device, work) * len(layer), size, ceiling)


def _operands(product: Product, device: torch.device) -> tuple[Tensor, Tensor, Tensor, list[Tensor]]:
    """x, norm, total, and the matrix as often as it takes to find none of it in the cache."""
    dtype = torch.bfloat16
    x, norm = (torch.randn(shape, device=device).to(dtype) for shape in ((1, product.inputs), (product.inputs,)))
    total = torch.zeros(1, product.outputs, device=device, dtype=dtype)
    size = product.outputs * product.inputs * dtype.itemsize
    copies = 1
    if device.type == "cuda":
        copies += CACHES * torch.cuda.get_device_properties(device).L2_cache_size // size
    shape = (product.outputs, product.inputs)
    return x, norm, total, [torch.empty(shape, device=device, dtype=dtype).normal_(std=0.01) for _ in range(copies)]


def _repeated(x: Tensor, tokens: int) -> Tensor:
    return x.expand(tokens, -1).contiguous()


def _row(product: Product, way: str, seconds: float, size: int, ceiling: float) -> LinearRow:
    speed = size / seconds
    return LinearRow(product.model, product.name, product.outputs, product.inputs, way, seconds, speed, speed / ceiling)


def _seconds(device: torch.device, work: Sequence[Callable[[], object]]) -> float:
    """Seconds that each piece of work takes, one after the other, the best of some tries; on CUDA in a graph."""
    for piece in work:
        piece()  # compiles, and loads what is compiled
    if device.type != "cuda":
        return timed(device, lambda: [piece() for piece in work]) / len(work)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for piece in work:
            piece()
    graph.replay()
    return min(timed(device, graph.replay) for _ in range(REPEATS)) / len(work)


def _compile_all(found: Iterable[Product], candidates: Iterable[RowLaunch]) -> None:
    """Fill Triton's cache on disk with all cores; a kernel depends on the inputs of its matrix, not on the outputs."""
    kinds = {(product.name, product.inputs): product for product in found}
    tasks = [(product, launch) for product in kinds.values() for launch in candidates]
    workers = min(16, os.cpu_count() or 1)
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        for _ in pool.map(_compile, tasks, chunksize=8):
            pass


def _compile(task: tuple[Product, RowLaunch]) -> None:
    product, launch = task
    device, small = torch.device("cuda"), Product(product.model, product.name, 32, product.inputs)
    x, norm, total = (torch.zeros(1, n, device=device, dtype=torch.bfloat16) for n in (small.inputs, small.inputs, 32))
    weight = torch.zeros(32, small.inputs, device=device, dtype=torch.bfloat16)
    for overlap in (False, True):
        ops = TritonOps(EPS, device, launch=partial(_always, launch), overlap=overlap)
        small.run(ops, x, total, norm[0], weight)


def _always(launch: RowLaunch, outputs: int, inputs: int) -> RowLaunch:
    return launch


def _in_words(launch: RowLaunch, overlap: bool) -> str:
    return f"{launch.rows} × {launch.columns}, {launch.warps} warps{', overlapping' if overlap else ''}"


def _best(rows: Sequence[LinearRow], most: int) -> list[LinearRow]:
    """Of each product F.linear, what the rule chooses now, and the quickest others."""
    kept = []
    for key in dict.fromkeys((row.model, row.product) for row in rows):
        own = [row for row in rows if (row.model, row.product) == key]
        rule = _in_words(row_launch(own[0].outputs, own[0].inputs), False)
        named = [row for row in own if row.way.startswith("F.linear") or row.way.startswith(rule)]
        others = sorted((row for row in own if row not in named), key=lambda row: row.seconds)
        kept += [*named, *others[:most]]
    return kept


def table(rows: Sequence[LinearRow]) -> str:
    """The rows as text."""
    head = ("model", "product", "matrix", "way", "µs", "TB/s", "of copy")
    lines = [
        (
            row.model,
            row.product,
            f"{row.outputs} × {row.inputs}" if row.inputs else "",
            row.way,
            f"{row.seconds * 1e6:.2f}",
            f"{row.bandwidth / 1e12:.3f}",
            f"{row.share:.1%}",
        )
        for row in rows
    ]
    return layout([head, *lines], left={0, 1, 3})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--model", action="append", choices=sorted(SHAPES), help="one of the shapes, again for more")
    parser.add_argument("--most", type=int, default=4, help="of the ways tried, how many per product to print")
    parser.add_argument("--json", type=Path, help="write every measurement here")
    given = parser.parse_args()
    device, models = torch.device(given.device), given.model or list(SHAPES)
    print(in_words(describe(device)))
    with torch.inference_mode():
        rows, layers = linear_rows(device, models), layer_rows(device, models)
    print(f"a copy reads and writes {rows[0].bandwidth / rows[0].share / 1e12:.3f} TB/s\n")
    print(table(_best(rows, given.most)), table(layers), sep="\n\n")
    if given.json:
        given.json.write_text(json.dumps([asdict(row) for row in (*rows, *layers)], indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()

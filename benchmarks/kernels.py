"""The attention kernels alone: bytes and operations per second, against what the device can do at most.

Each backend over KV in one segment, in 32, and in 32 that have moved and lie about in shuffled blocks; beside them the
quickest kernel that torch has for contiguous tensors. `python -m benchmarks.kernels --help`. Matrix products are
`benchmarks.kernels_linear`'s.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace

import torch

from benchmarks import ceilings, machine
from benchmarks.graph_clock import repeated_seconds
from benchmarks.kernels_backends import BACKENDS, make_backend
from benchmarks.kernels_cases import MANY, MOVED, ONE, Case, set_up
from benchmarks.kernels_peers import quickest
from benchmarks.kernels_report import Report, Row, plot
from benchmarks.options import positive
from benchmarks.random_model import SHAPES, decoder_config
from benchmarks.results import add_result_options, deliver
from engine.config import EngineConfig
from engine.device import choose_device, choose_dtype
from engine.models.decoder_config import DecoderConfig

DECODE = (8192, 32768, 131072)
PREFILL = (64, 1024, 8192)
BEHIND = (0, 32768)
_PREFILL_LAYERS = 2


@dataclass(frozen=True)
class Options:
    """One run.

    Attributes:
        backends: names of the backends; none are the usual ones of the device.
        decode: tokens before one new one. prefill: new tokens, each behind as many as `behind` says.
    """

    config: EngineConfig
    shape: str
    backends: tuple[str, ...] = ()
    decode: tuple[int, ...] = DECODE
    prefill: tuple[int, ...] = PREFILL
    behind: tuple[int, ...] = BEHIND


def run(options: Options) -> Report:
    """Time all kernels at all cases.

    Raises:
        EngineError: the device can't be used.
    """
    device = choose_device(options.config)
    dtype = choose_dtype(options.config, device)
    config = decoder_config(options.shape)
    limits = ceilings.measure(device, dtype)
    # the torch backend reads run by run: over shuffled blocks that is thousands of launches
    names = options.backends or (("triton", "flash") if device.type == "cuda" else ("torch",))
    failed: list[str] = []
    rows = [row for case in _cases(options) for row in _rows(case, config, names, device, dtype, failed)]
    return Report(
        title=f"Attention of {options.shape}, {str(dtype).removeprefix('torch.')}",
        settings=asdict(options),
        machine=machine.describe(device),
        ceilings=limits,
        rows=tuple(rows),
        failed=tuple(dict.fromkeys(failed)),
    )


def _cases(options: Options) -> Iterator[Case]:
    for before in options.decode:
        for layout in (ONE, MANY, MOVED):
            yield Case(1, before, layout)
    for new in options.prefill:
        for before in options.behind:
            for layout in (ONE, MOVED) if before else (ONE,):
                yield Case(new, before, layout)


def _rows(
    case: Case,
    config: DecoderConfig,
    names: Sequence[str],
    device: torch.device,
    dtype: torch.dtype,
    failed: list[str],
) -> Iterator[Row]:
    """A row per backend, and behind the first layout of a case one of torch's quickest contiguous kernel."""
    layers = config.num_layers if case.new == 1 else min(_PREFILL_LAYERS, config.num_layers)
    read = 2 * config.num_kv_heads * config.head_dim * dtype.itemsize * (case.before + case.new)
    flops = 4 * config.num_heads * config.head_dim * case.pairs

    def row(kernel: str, seconds: float, layout: str = case.layout) -> Row:
        return Row(replace(case, layout=layout), kernel, seconds / layers, read, flops)

    stage = set_up(case, config, layers, device, dtype)
    for name in names:
        try:
            backend = make_backend(name, stage.pool, stage.rotary, config.layers[:layers])
            yield row(name, repeated_seconds(device, stage.run(backend)))
        except (ImportError, RuntimeError) as error:
            failed.append(f"{name}: {str(error).splitlines()[0]}")
    del stage
    if case.layout == ONE and (peer := quickest(case, config, layers, device, dtype)):
        yield row(*peer, layout="contiguous")
    if device.type == "cuda":
        torch.cuda.empty_cache()


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark as `arguments` say; 2 if it can't run."""
    parser = _parser()
    given = parser.parse_args(arguments)
    options = Options(
        config=EngineConfig(device=given.device, dtype=given.dtype),
        shape=given.random_shape,
        backends=tuple(given.backends),
        decode=tuple(given.decode),
        prefill=tuple(given.prefill),
        behind=tuple(given.behind),
    )
    return deliver(parser, given, lambda: run(options), plot)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.kernels", description=__doc__)
    parser.add_argument("--random-shape", choices=sorted(SHAPES), default="qwen2.5-7b", help="whose attention")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, …")
    parser.add_argument("--dtype", default="auto", choices=("auto", "float32", "bfloat16"))
    parser.add_argument(
        "--backends", nargs="+", choices=tuple(BACKENDS), default=(), help="else the device's usual ones"
    )
    parser.add_argument("--decode", nargs="*", type=positive, default=DECODE, help="tokens before one new token")
    parser.add_argument("--prefill", nargs="*", type=positive, default=PREFILL, help="numbers of new tokens")
    parser.add_argument("--behind", nargs="+", type=int, default=BEHIND, help="tokens before these")
    add_result_options(parser)
    return parser


if __name__ == "__main__":
    sys.exit(main())

"""transformers compiled by torch, in a process of its own: a JSON line per context length.

`python -m benchmarks.compiled --random-shape qwen2.5-7b --contexts 8192`; benchmarks.decode runs it.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence

import torch
from torch._dynamo.utils import counters

from benchmarks.decode_peers import compiled_step, time_steps
from benchmarks.options import add_engine_options, add_shape_option, engine_config, positive
from benchmarks.random_model import random_transformers
from engine.device import choose_device, choose_dtype


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.compiled", description=__doc__)
    add_engine_options(parser)
    add_shape_option(parser)
    parser.add_argument("--contexts", nargs="+", type=positive, required=True)
    parser.add_argument("--tokens", type=positive, default=64)
    given = parser.parse_args(arguments)
    config = engine_config(given)
    device = choose_device(config)
    model = random_transformers(given.random_shape, device, choose_dtype(config, device))
    for context in given.contexts:
        torch.compiler.reset()
        step, compiling = compiled_step(model, context, given.tokens)
        median, mean = time_steps(step, given.tokens)
        print_found(context, median, mean, compiling)
    return 0


def print_found(context: int, median: float, mean: float, compiling: float) -> None:
    """A line for `benchmarks.outside`; it says how often torch did without the CUDA graphs that it was to make."""
    skipped = counters["inductor"]["cudagraph_skips"]
    found = {"context": context, "median": median, "mean": mean, "compiling": compiling, "skipped": skipped}
    print(json.dumps(found), flush=True)


if __name__ == "__main__":
    sys.exit(main())

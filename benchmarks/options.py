"""The options that every benchmark has: which model, on what, computed how."""

from __future__ import annotations

import argparse
from typing import get_args

from benchmarks.random_model import SHAPES
from engine.config import Attention, EngineConfig, KVDType


def add_engine_options(parser: argparse.ArgumentParser, *, dtype: str = "auto") -> None:
    """What `engine_config` reads."""
    parser.add_argument("--model", default="smollm2-135m", help="catalogue name, folder, GGUF or hub repository")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, …")
    parser.add_argument("--dtype", default=dtype, choices=("auto", "float32", "bfloat16"))
    parser.add_argument("--kv-dtype", default="auto", choices=get_args(KVDType), help="of KV alone")
    parser.add_argument("--attention", default="auto", choices=get_args(Attention), help="what attends")
    parser.add_argument("--tensor-parallel-size", type=positive, default=1, help="GPUs that share the model")
    parser.add_argument("--threads", type=positive, help="CPU threads of torch")
    parser.add_argument("--slice-tokens", type=positive, help="the engine's, see EngineConfig")


def add_shape_option(parser: argparse.ArgumentParser) -> None:
    """For benchmarks of speed, which need no weights that say anything."""
    parser.add_argument("--random-shape", choices=sorted(SHAPES), help="random weights of this shape instead")


def engine_config(given: argparse.Namespace) -> EngineConfig:
    """The engine's configuration as the options say. Nothing is computed in the background by itself, nor guessed."""
    return EngineConfig(
        model=given.model,
        device=given.device,
        dtype=given.dtype,
        kv_dtype=given.kv_dtype,
        attention=given.attention,
        tensor_parallel_size=given.tensor_parallel_size,
        threads=given.threads,
        slice_tokens=given.slice_tokens,
        speculation=False,
        refine=False,
    )


def positive(text: str) -> int:
    """An argument that is a number of 1 or more."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return number

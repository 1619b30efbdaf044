"""gpt-fast (PyTorch's own example of fast decoding) with random weights: a JSON line per context length.

`python -m benchmarks.gpt_fast CHECKOUT --random-shape llama-3.1-8b --contexts 8192`; benchmarks.decode runs it. The
checkout's own model and decoding step are used as they are, compiled as it compiles them.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import torch

from benchmarks.compiled import print_found
from benchmarks.decode_peers import time_steps
from benchmarks.options import add_engine_options, add_shape_option, engine_config, positive
from benchmarks.random_model import SHAPES
from engine.device import choose_device, choose_dtype

_ROOM = 64
"""Tokens beyond those that are timed: for compiling and warming up."""


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpt_fast", description=__doc__)
    parser.add_argument("checkout", type=Path)
    add_engine_options(parser)
    add_shape_option(parser)
    parser.add_argument("--contexts", nargs="+", type=positive, required=True)
    parser.add_argument("--tokens", type=positive, default=64)
    given = parser.parse_args(arguments)
    config = engine_config(given)
    device = choose_device(config)
    sys.path.insert(0, str(given.checkout))
    model_module, generate = import_module("model"), import_module("generate")
    model = _random_model(model_module, given.random_shape, device, choose_dtype(config, device))
    for context in given.contexts:
        torch.compiler.reset()
        start = time.perf_counter()
        step: Callable[[], int] = _step(generate, model, context, given.tokens + _ROOM, device)
        for _ in range(4):
            step()
        compiling = time.perf_counter() - start
        median, mean = time_steps(step, given.tokens)
        print_found(context, median, mean, compiling)
    return 0


def _random_model(module: Any, shape: str, device: torch.device, dtype: torch.dtype) -> Any:
    """Its model with our shape's sizes; it knows no biases on q, k and v, and no norms of them."""
    sizes = SHAPES[shape]
    rope = dict(sizes["rope_parameters"]) if "rope_parameters" in sizes else {"rope_theta": 10000.0}
    base = rope.pop("rope_theta")
    scaled = rope.pop("rope_type", "default") == "llama3"
    arguments = module.ModelArgs(
        block_size=sizes["max_position_embeddings"],
        vocab_size=sizes["vocab_size"],
        n_layer=sizes["num_hidden_layers"],
        n_head=sizes["num_attention_heads"],
        dim=sizes["hidden_size"],
        intermediate_size=sizes["intermediate_size"],
        n_local_heads=sizes["num_key_value_heads"],
        rope_base=base,
        rope_scaling=rope if scaled else None,
    )
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device(device):
            model = module.Transformer(arguments).eval()
    finally:
        torch.set_default_dtype(before)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 2:
                parameter.normal_(std=parameter.shape[1] ** -0.5)
    return model


@torch.no_grad()
def _step(generate: Any, model: Any, context: int, room: int, device: torch.device) -> Callable[[], int]:
    """Its decoding step behind `context` tokens of random KV."""
    for block in model.layers:
        block.attention.kv_cache = None
    model.max_seq_length = model.max_batch_size = -1
    with torch.device(device):
        model.setup_caches(max_batch_size=1, max_seq_length=context + room)
    for block in model.layers:
        block.attention.kv_cache.k_cache.normal_()
        block.attention.kv_cache.v_cache.normal_()
    length = model.max_seq_length
    mask = generate.create_block_mask(generate.causal_mask, 1, 1, length, length, device=str(device))
    compiled: Any = torch.compile(generate.decode_one_token, mode="reduce-overhead", fullgraph=True)
    position = torch.tensor([context], device=device, dtype=torch.int)
    token = torch.zeros((1, 1), device=device, dtype=torch.int)

    @torch.no_grad()
    def step() -> int:
        following, _ = compiled(model, token, position, mask)
        token.copy_(following.view(1, 1))
        position.add_(1)
        return int(token)

    return step


if __name__ == "__main__":
    sys.exit(main())

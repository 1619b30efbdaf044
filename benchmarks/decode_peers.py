"""Decoding by transformers: as it is called, in a CUDA graph made by hand, and compiled.

A peer's cache is filled with random KV at once: nothing is prefilled, and what a step costs is the same.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from itertools import pairwise
from statistics import median
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache, StaticCache

EAGER, GRAPH, COMPILED = "transformers, eager", "transformers, CUDA graph", "transformers, torch.compile"
_WARM_UP = 4


def time_steps(step: Callable[[], int], tokens: int) -> tuple[float, float]:
    """Median and mean seconds of `tokens` steps, each of which returns its token to the host."""
    for _ in range(_WARM_UP):
        step()
    times = [time.perf_counter()]
    for _ in range(tokens):
        step()
        times.append(time.perf_counter())
    gaps = [later - earlier for earlier, later in pairwise(times)]
    return median(gaps), sum(gaps) / tokens


def eager_step(model: Any, context: int) -> Callable[[], int]:
    """One token after the other over `context` tokens, in a cache that grows."""
    cache = DynamicCache(config=model.config)
    fill(cache, model, context)
    token = torch.zeros((1, 1), dtype=torch.int64, device=model.device)

    @torch.inference_mode()
    def step() -> int:
        output = model(token, past_key_values=cache, use_cache=True, logits_to_keep=1)
        best = output.logits[0, -1].argmax()
        token.copy_(best)
        return int(best)

    return step


class StaticStep:
    """One token after the other over `context` tokens, in a cache of fixed size: nothing in it depends on the host.

    Attributes:
        token: int64 [1, 1], the last one; each step replaces it by the likeliest next.
    """

    def __init__(self, model: Any, context: int, tokens: int) -> None:
        room = -(-(context + tokens) // 64) * 64
        self._model = model
        self._cache = StaticCache(config=model.config, max_cache_len=room)
        fill(self._cache, model, context)
        self.token = torch.zeros((1, 1), dtype=torch.int64, device=model.device)
        self._position = torch.full((1, 1), context, dtype=torch.int64, device=model.device)
        self._slots = torch.arange(room, device=model.device)

    @torch.inference_mode()
    def forward(self, call: Callable[..., Tensor] | None = None) -> None:
        """Compute the next token on the device, by `call` in place of `logits`."""
        mask = (self._slots <= self._position)[None, None]
        logits = (call or self.logits)(self.token, mask, self._position)
        self.token.copy_(logits.argmax())
        self._position.add_(1)

    def logits(self, token: Tensor, mask: Tensor, position: Tensor) -> Tensor:
        """[vocab]; the cache then holds the token's KV too."""
        output = self._model(
            token, attention_mask=mask, position_ids=position, past_key_values=self._cache, use_cache=True
        )
        found: Tensor = output.logits[0, -1]
        return found


def graph_step(model: Any, context: int, tokens: int) -> Callable[[], int]:
    """The static step captured in a CUDA graph."""
    static = StaticStep(model, context, tokens + 2 * _WARM_UP + 4)
    side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(2):
            static.forward()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        static.forward()

    def step() -> int:
        graph.replay()
        return int(static.token)

    return step


def compiled_step(model: Any, context: int, tokens: int) -> tuple[Callable[[], int], float]:
    """The static step compiled by torch with CUDA graphs of its own, and the seconds that took."""
    static = StaticStep(model, context, tokens + 2 * _WARM_UP + 4)
    compiled = torch.compile(static.logits, mode="reduce-overhead", fullgraph=True)

    def step() -> int:
        torch.compiler.cudagraph_mark_step_begin()  # type: ignore[no-untyped-call]
        static.forward(compiled)
        return int(static.token)

    start = time.perf_counter()
    for _ in range(4):
        step()
    return step, time.perf_counter() - start


def fill(cache: Any, model: Any, context: int) -> None:
    """Random keys and values of `context` tokens in every layer."""
    config = model.config
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    shape = (1, config.num_key_value_heads, context, head_dim)
    with torch.inference_mode():
        for layer in range(config.num_hidden_layers):
            keys, values = (torch.randn(shape, dtype=model.dtype, device=model.device) for _ in range(2))
            cache.update(keys, values, layer)

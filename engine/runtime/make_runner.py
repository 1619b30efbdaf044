"""Makes the runner of a model, and everything ready that a question would else have to wait for."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import torch

from engine.attention.by_size import BySize
from engine.model import LoadedModel, Progress
from engine.models.decoder import Decoder
from engine.models.progress import silent
from engine.runtime.runner import Runner, SmallSteps

if TYPE_CHECKING:
    from engine.attention.triton_attention import TritonAttention

_PREPARING = "Preparing the GPU"
_STEPS = (1, 512)
"""Tokens of the steps that stand for all small and all large ones: their kernels are the same."""


def make_runner(model: LoadedModel, progress: Progress | None = None) -> Runner:
    """The runner of `model`; on CUDA its kernels are compiled, and small steps captured as graphs."""
    small_steps = _prepared(model, progress or silent) if model.device.type == "cuda" else None
    return Runner(model.decoder, model.attention, model.device, small_steps)


def _prepared(model: LoadedModel, progress: Progress) -> SmallSteps | None:
    try:
        # only here: the engine does without Triton where there is no GPU
        from engine.attention.triton_attention import TritonAttention
        from engine.runtime.graphs import CudaCapture, Graphs
    except ImportError:
        return None
    attention = model.attention.few if isinstance(model.attention, BySize) else model.attention
    if not isinstance(attention, TritonAttention) or model.stateful:
        return None
    progress(_PREPARING, 0.0)
    _compile(model, attention)
    if not isinstance(model.decoder, Decoder):
        return None
    graphs = Graphs(model.decoder, attention, CudaCapture(model.device))
    graphs.prepare(lambda share: progress(_PREPARING, share))
    return graphs


@torch.inference_mode()
def _compile(model: LoadedModel, attention: TritonAttention) -> None:
    """Run steps in which nothing is attended to, once for each size of tiles."""
    for tokens, block_m, noted in itertools.product(_STEPS, attention.blocks, (False, True)):
        positions = torch.arange(tokens, device=model.device)
        attention.step = attention.empty_step(tokens, block_m, noted=noted)
        model.decoder.forward(torch.zeros_like(positions), positions, attention)
    torch.cuda.synchronize(model.device)

"""Makes the runner of a model, and everything ready that a question would else have to wait for."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch

from engine.attention.by_size import BySize
from engine.attention.native_attention import NativeAttention
from engine.attention.torch_attention import TorchAttention
from engine.device import on_device
from engine.model import LoadedModel, Progress
from engine.models.decoder import Decoder
from engine.models.language_model import LanguageModel
from engine.models.progress import silent
from engine.native.prepare import most_tokens, prepare_stepper
from engine.runtime.native_steps import NativeSteps
from engine.runtime.runner import Runner, SmallSteps

if TYPE_CHECKING:
    from engine.attention.triton_attention import TritonAttention
    from engine.runtime.graphs import Announce, Graphs

_PREPARING = "Preparing the GPU"
_STEPS = (1, 512)
"""Tokens of the steps that stand for all small and all large ones: their kernels are the same."""


def make_runner(model: LoadedModel, progress: Progress | None = None) -> Runner:
    """The runner of `model`; on CUDA its kernels are compiled, and small steps captured as graphs.

    Nothing in the model's pool may be in use yet.
    """
    report = progress or silent
    with on_device(model.device):
        if model.followers is not None:
            return make_parallel_runner(model, report)
        small_steps = _prepared(model, report) if model.device.type == "cuda" else _native(model, report)
        return Runner(model.decoder, model.attention, model.device, small_steps)


def make_parallel_runner(model: LoadedModel, progress: Progress, sizes: Sequence[int] | None = None) -> Runner:
    """The runner of a model that other processes hold shards of; they prepare at the same time.

    Args:
        sizes: tokens of steps that graphs are captured for; None takes the usual ones on CUDA, and none elsewhere.

    Raises:
        EngineError: one of them has ended.
    """
    # only here: the engine does without Triton where there is no GPU
    from engine.attention.triton_attention import TritonAttention
    from engine.parallel.mirror import Mirror
    from engine.runtime.graphs import SIZES

    followers, decoder, attention = model.followers, model.decoder, model.attention
    assert followers is not None
    assert isinstance(decoder, Decoder)
    assert isinstance(attention, TritonAttention)
    others = Mirror(followers, attention)
    if sizes is None:
        sizes = SIZES if model.device.type == "cuda" else ()
    graphs = None
    if sizes:
        with others.prepare(tuple(sizes)):
            graphs = prepare_graphs(
                decoder, attention, sizes, lambda share: progress(_PREPARING, share), others.replays
            )
    return Runner(decoder, attention, model.device, graphs, others)


def _native(model: LoadedModel, progress: Progress) -> SmallSteps | None:
    """Only beside torch's attention: another one was asked for by its name, and shall attend."""
    if not isinstance(model.decoder, Decoder) or not isinstance(model.attention, (TorchAttention, NativeAttention)):
        return None
    progress("Preparing the processor", None)
    stepper = prepare_stepper(model.decoder, model.pool)
    return NativeSteps(stepper, model.pool, most_tokens(model.decoder)) if stepper is not None else None


def _prepared(model: LoadedModel, progress: Progress) -> SmallSteps | None:
    try:
        # only here: the engine does without Triton where there is no GPU
        from engine.attention.triton_attention import TritonAttention
        from engine.runtime.graphs import SIZES
    except ImportError:
        return None
    attention = model.attention.few if isinstance(model.attention, BySize) else model.attention
    if not isinstance(attention, TritonAttention) or model.stateful:
        return None
    progress(_PREPARING, 0.0)
    if not isinstance(model.decoder, Decoder):
        _compile(model.decoder, attention)
        return None
    return prepare_graphs(model.decoder, attention, SIZES, lambda share: progress(_PREPARING, share))


def prepare_graphs(
    decoder: Decoder,
    attention: TritonAttention,
    sizes: Sequence[int],
    progress: Callable[[float], None] = lambda share: None,
    announce: Announce | None = None,
) -> Graphs:
    """Compile all kernels that steps need on CUDA, and capture graphs for steps of `sizes` tokens.

    Args:
        progress: is told the share done.
        announce: see `Graphs`.
    """
    from engine.runtime.graphs import Graphs, capture_for

    if decoder.device.type == "cuda":
        _compile(decoder, attention)
    graphs = Graphs(decoder, attention, capture_for(decoder.device), sizes, announce)
    graphs.prepare(progress)
    return graphs


@torch.inference_mode()
def _compile(decoder: LanguageModel, attention: TritonAttention) -> None:
    """Run steps in which nothing is attended to, once for each size of tiles."""
    for tokens, block_m, noted in itertools.product(_STEPS, attention.blocks, (False, True)):
        positions = torch.arange(tokens, device=decoder.device)
        attention.step = attention.empty_step(tokens, block_m, noted=noted)
        ids = torch.zeros_like(positions)
        decoder.forward(ids, positions, attention)
        decoder.fill(ids, positions, attention)
    torch.cuda.synchronize(decoder.device)

"""Which backend attends: the one the configuration names, or the fastest for this device and model.

Backends are imported when they are chosen: what one of them needs may be absent.
"""

from __future__ import annotations

import importlib.util
import logging
import os
from collections.abc import Sequence

import torch

from engine.attention.base import AttentionBackend
from engine.attention.by_size import BySize
from engine.attention.flash_api import NOT_INSTALLED, FlashAPI, find_flash
from engine.attention.native_attention import NativeAttention
from engine.attention.timing import time_step
from engine.attention.torch_attention import TorchAttention
from engine.config import EngineConfig
from engine.errors import InvalidRequestError
from engine.kv.pool import KVPool
from engine.models.language_model import LanguageModel
from engine.native.many import find_many

logger = logging.getLogger(__name__)

_QUESTION = 64
"""New tokens of the smallest step that flash is timed at; the largest is a slice of a prefill. It launches more kernels
than others do, and is not captured in graphs, so an answer's steps are not for it."""

_LARGE = 1024
"""New tokens of the largest where slices are sized by speed: a fast device computes as many while others wait."""

_FP8_CAPABILITY = (8, 9)
"""From which on Triton's kernels can read and write float8 e4m3."""

_CLEARLY = 0.95
"""The share of its rival's time within which flash must stay, for a choice that noise doesn't make."""


def make_attention(config: EngineConfig, pool: KVPool, decoder: LanguageModel) -> AttentionBackend:
    """The attention of `decoder` over `pool`.

    ``auto`` takes `torch` on a CPU. On CUDA it takes `triton`, or `torch` where Triton is not installed; and where
    flash-attn is, and can do what the model needs, it is timed against that and gets the steps of so many tokens as it
    is clearly faster at.

    Raises:
        InvalidRequestError: the backend that is asked for is not installed, or can't be used with this model.
    """
    device = pool.keys[0].device
    check_backend(config, device)
    if config.attention == "torch":
        return _torch(pool, decoder)
    if config.attention == "triton" or config.tensor_parallel_size > 1:
        return _triton(pool, decoder)
    if config.attention == "flash":
        return _flash(pool, decoder)
    chosen = _automatic(config, pool, decoder)
    logger.info("attention by %s", type(chosen).__name__)
    return chosen


def check_backend(config: EngineConfig, device: torch.device) -> None:
    """See that the backend that is asked for can be had here, before a model is loaded for it.

    Raises:
        InvalidRequestError: it can't; the message says what it needs.
    """
    name = config.attention
    if config.tensor_parallel_size > 1:
        if name not in ("auto", "triton"):
            raise InvalidRequestError(f"tensor_parallel_size needs attention 'triton', not {name!r}")
        name = "triton"
    if config.kv_dtype != "auto" and name == "flash":
        raise InvalidRequestError(f"attention 'flash' can't read KV in {config.kv_dtype}; 'auto' takes another backend")
    if config.kv_dtype == "fp8" and name != "torch" and device.type == "cuda" and _has_triton():
        _check_fp8(device)
    if name in ("auto", "torch"):
        return
    if name == "triton" and not _has_triton():
        raise InvalidRequestError("attention 'triton' needs the package triton: pip install triton")
    if name == "flash" and find_flash() is None:
        raise InvalidRequestError(NOT_INSTALLED)
    interpreted = name == "triton" and os.environ.get("TRITON_INTERPRET") == "1"
    if device.type != "cuda" and not interpreted:
        raise InvalidRequestError(f"attention {name!r} needs a CUDA device, and this engine computes on {device}")


def _check_fp8(device: torch.device) -> None:
    found = torch.cuda.get_device_capability(device)
    if found < _FP8_CAPABILITY:
        needed = ".".join(map(str, _FP8_CAPABILITY))
        has = ".".join(map(str, found))
        raise InvalidRequestError(
            f"kv_dtype 'fp8' needs compute capability {needed} or more, and {device} has {has}; 'int8' will do"
        )


def _has_triton() -> bool:
    return importlib.util.find_spec("triton") is not None


def _torch(pool: KVPool, decoder: LanguageModel) -> AttentionBackend:
    """torch's own kernels, or C where that is quicker."""
    plain = all(spec.softcap is None and spec.sinks is None for spec in decoder.layers)
    if pool.keys[0].device.type == "cpu" and plain:
        many = find_many(pool.keys[0].dtype, {spec.head_dim for spec in decoder.layers})
        if many is not None:
            return NativeAttention(pool, decoder.rotary, decoder.layers, many)
    return TorchAttention(pool, decoder.rotary, decoder.layers)


def _triton(pool: KVPool, decoder: LanguageModel) -> AttentionBackend:
    from engine.attention.triton_attention import TritonAttention, refusal

    if reason := refusal(decoder.layers, decoder.dtype, decoder.device):
        raise InvalidRequestError(f"attention 'triton' can't be used with this model: {reason}")
    return TritonAttention(pool, decoder.rotary, decoder.layers)


def _flash(pool: KVPool, decoder: LanguageModel) -> AttentionBackend:
    from engine.attention.flash_attention import FlashAttention, refusal

    api = find_flash()
    assert api is not None, "check_backend has found it"
    if reason := refusal(api, pool, decoder.layers):
        raise InvalidRequestError(f"attention 'flash' can't be used with this model: {reason}")
    return FlashAttention(pool, decoder.rotary, decoder.layers, api=api)


def _automatic(config: EngineConfig, pool: KVPool, decoder: LanguageModel) -> AttentionBackend:
    if pool.keys[0].device.type != "cuda":
        return _torch(pool, decoder)
    usual = _usual(pool, decoder)
    api = find_flash()
    return usual if api is None else _with_flash(usual, api, config, pool, decoder)


def _usual(pool: KVPool, decoder: LanguageModel) -> AttentionBackend:
    """What attends on CUDA without any other library."""
    if _has_triton():
        try:
            return _triton(pool, decoder)
        except InvalidRequestError as error:
            logger.warning("%s; torch's own kernels attend", error.message)
    return TorchAttention(pool, decoder.rotary, decoder.layers)


def _with_flash(
    usual: AttentionBackend, api: FlashAPI, config: EngineConfig, pool: KVPool, decoder: LanguageModel
) -> AttentionBackend:
    """`usual`, with flash for the steps that it is faster at, if there are such."""
    from engine.attention.flash_attention import FlashAttention, refusal

    if reason := refusal(api, pool, decoder.layers):
        logger.info("%s is installed, but %s", api.name, reason)
        return usual
    sizes = sorted({_QUESTION, max(_QUESTION, config.slice_tokens or _LARGE)})
    try:
        flash = FlashAttention(pool, decoder.rotary, decoder.layers, api=api)
        its_times = [time_step(flash, pool, decoder, size) for size in sizes]
    except Exception:
        # whatever its kernels trip over on this device, the engine has another way to attend
        logger.warning("%s is installed, but does not run here", api.name, exc_info=True)
        return usual
    times = [time_step(usual, pool, decoder, size) for size in sizes]
    for size, mine, other in zip(sizes, its_times, times, strict=True):
        logger.info("attention of %d tokens: %.3f ms a layer by %s, %.3f else", size, mine, api.name, other)
    wins_from = _wins_from(sizes, its_times, times)
    return usual if wins_from is None else BySize(usual, flash, wins_from)


def _wins_from(sizes: Sequence[int], mine: Sequence[float], other: Sequence[float]) -> int | None:
    """The size from which on the first is clearly faster; None if it is not even at the largest."""
    slower = [index for index, (a, b) in enumerate(zip(mine, other, strict=True)) if a >= _CLEARLY * b]
    first = slower[-1] + 1 if slower else 0
    return sizes[first] if first < len(sizes) else None

"""A loaded model with everything that belongs to it: weights, tokenizer, KV pool, attention."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from engine.attention.base import AttentionBackend
from engine.attention.choose import check_backend, make_attention
from engine.config import EngineConfig
from engine.device import choose_device, choose_dtype, choose_num_blocks
from engine.kv.pool import KVPool
from engine.models.language_model import LanguageModel
from engine.models.load import load_language_model
from engine.models.resolve import resolve_model
from engine.tokenizer import Tokenizer

Progress = Callable[[str, float | None], None]


@dataclass(frozen=True)
class LoadedModel:
    """What an engine computes with; `fingerprint` (32 bytes) begins every prefix hash, `max_context` is in tokens."""

    decoder: LanguageModel
    tokenizer: Tokenizer
    pool: KVPool
    attention: AttentionBackend
    fingerprint: bytes
    device: torch.device
    dtype: torch.dtype
    max_context: int

    @property
    def exact_only(self) -> str | None:
        """A sentence that tells the user why no KV is used elsewhere than it was computed; None if it can be."""
        reason = self.decoder.exact_only
        return reason and f"Every question to this model is answered as exact: {reason}."

    @property
    def stateful(self) -> bool:
        """Each row of a step must bring the state that its tokens go on from (see `Runner.run`)."""
        return self.decoder.stateful


def load_model(config: EngineConfig, progress: Progress | None = None) -> LoadedModel:
    """Find, fetch or convert the model as need be, and load it.

    Raises:
        EngineError: it can't be had, is not supported, or the device can't be used.
    """
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    device = choose_device(config)
    check_backend(config, device)
    dtype = choose_dtype(config, device)
    folder = resolve_model(config.model, progress=progress)
    decoder, fingerprint = load_language_model(
        folder, device=device, dtype=dtype, max_context=config.max_context, progress=progress
    )
    return equip(config, decoder, Tokenizer.from_folder(folder), fingerprint)


def equip(config: EngineConfig, decoder: LanguageModel, tokenizer: Tokenizer, fingerprint: bytes) -> LoadedModel:
    """A decoder with all that an engine needs beside it: KV and attention of its own. Several may share one decoder."""
    device, dtype = decoder.device, decoder.dtype
    heads = [(layer.num_kv_heads, layer.head_dim) for layer in decoder.layers]
    bytes_per_token = 2 * sum(kv_heads * head_dim for kv_heads, head_dim in heads) * dtype.itemsize
    longest = min(config.max_context or decoder.max_position, decoder.max_position)
    num_blocks = choose_num_blocks(config, device, bytes_per_token, longest)
    pool = KVPool(heads, num_blocks, config.block_size, dtype=dtype, device=device)
    return LoadedModel(
        decoder=decoder,
        tokenizer=tokenizer,
        pool=pool,
        attention=make_attention(config, pool, decoder),
        fingerprint=fingerprint,
        device=device,
        dtype=dtype,
        max_context=min(longest, num_blocks * config.block_size),
    )

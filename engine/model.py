"""A loaded model with everything that belongs to it: weights, tokenizer, KV pool, attention."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from engine.attention.base import AttentionBackend
from engine.attention.choose import check_backend, make_attention
from engine.config import EngineConfig
from engine.device import choose_devices, choose_dtype, choose_kv_dtype, choose_num_blocks, on_device, processors
from engine.errors import InvalidRequestError, UnsupportedModelError
from engine.kv.pool import KVPool, bytes_per_token
from engine.models.decoder_config import read_decoder_config
from engine.models.language_model import LanguageModel
from engine.models.load import load_language_model, load_shard
from engine.models.progress import silent
from engine.models.resolve import resolve_model
from engine.parallel.shard import Shard
from engine.tokenizer import Tokenizer

if TYPE_CHECKING:
    from engine.parallel.followers import Followers
    from engine.parallel.group import Group
    from engine.parallel.messages import LoadShard

Progress = Callable[[str, float | None], None]


@dataclass(frozen=True)
class LoadedModel:
    """What an engine computes with.

    Attributes:
        model_fingerprint: 32 bytes that tell the model, its weights and its dtype from all others.
        max_context: longest prompt plus answer, tokens.
        followers: other processes that hold the other shards of its weights and KV; without, it is all here.
    """

    decoder: LanguageModel
    tokenizer: Tokenizer
    pool: KVPool
    attention: AttentionBackend
    model_fingerprint: bytes
    device: torch.device
    dtype: torch.dtype
    max_context: int
    followers: Followers | None = None

    def close(self) -> None:
        """End the processes that belong to it, if any; it can't compute any more then. Idempotent."""
        if self.followers is not None:
            self.followers.close()

    @property
    def fingerprint(self) -> bytes:
        """Begins every prefix hash: 32 bytes that differ wherever KV does, so also with what it is kept as."""
        if not self.pool.scaled:
            return self.model_fingerprint
        return hashlib.sha256(self.model_fingerprint + str(self.pool.keys[0].dtype).encode()).digest()

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
    devices = choose_devices(config)
    check_backend(config, devices[0])
    dtype = choose_dtype(config, devices[0])
    folder = resolve_model(config.model, progress=progress)
    if len(devices) > 1:
        return _load_shards(config, folder, devices, dtype, progress)
    with on_device(devices[0]):
        decoder, fingerprint = load_language_model(
            folder,
            device=devices[0],
            dtype=dtype,
            max_context=config.max_context,
            packed=config.quantized_decode,
            progress=progress,
        )
        (progress or silent)("Reading the tokenizer", None)
        return equip(config, decoder, Tokenizer.from_folder(folder), fingerprint)


def _load_shards(
    config: EngineConfig, folder: Path, devices: list[torch.device], dtype: torch.dtype, progress: Progress | None
) -> LoadedModel:
    try:
        Shard(0, len(devices)).config(read_decoder_config(folder))  # before any process is started for it
    except UnsupportedModelError as error:
        message = f"{error.message} (tensor_parallel_size is for models that the native decoder runs)"
        raise UnsupportedModelError(message, **error.data) from error
    load = partial(load_shard, folder=folder, dtype=dtype)
    return equip_shards(config, load, devices, Tokenizer.from_folder(folder), progress)


def equip_shards(
    config: EngineConfig,
    load: LoadShard,
    devices: list[torch.device],
    tokenizer: Tokenizer,
    progress: Progress | None = None,
) -> LoadedModel:
    """A model that a process for each of `devices` holds a shard of; this process has that of the first.

    Raises:
        EngineError: a rank could not load its shard.
    """
    from engine.parallel.followers import Followers  # only here: few models need it

    followers = Followers(config, load, devices)
    try:
        with on_device(devices[0]), followers.together(limit=None):
            decoder, fingerprint = load(followers.group, progress)
            model = equip(config, decoder, tokenizer, fingerprint, followers.group)
    except BaseException:
        followers.close()
        raise
    return replace(model, followers=followers)


def equip(
    config: EngineConfig,
    decoder: LanguageModel,
    tokenizer: Tokenizer,
    fingerprint: bytes,
    group: Group | None = None,
) -> LoadedModel:
    """A decoder with all that an engine needs beside it: KV and attention of its own. Several may share one decoder.

    `fingerprint` is the model's, whatever its KV is kept as.
    """
    pool, attention = make_kv(config, decoder, group)
    longest = min(config.max_context or decoder.max_position, decoder.max_position)
    return LoadedModel(
        decoder=decoder,
        tokenizer=tokenizer,
        pool=pool,
        attention=attention,
        model_fingerprint=fingerprint,
        device=decoder.device,
        dtype=decoder.dtype,
        max_context=min(longest, pool.slots),
    )


def make_kv(
    config: EngineConfig, decoder: LanguageModel, group: Group | None = None
) -> tuple[KVPool, AttentionBackend]:
    """A pool as large as `config` says, and attention over it; on all ranks of `group` they have the same size.

    Raises:
        InvalidRequestError: the ranks' devices differ in how they compute.
    """
    device, dtype = decoder.device, decoder.dtype
    heads = [(layer.num_kv_heads, layer.head_dim) for layer in decoder.layers]
    kv_dtype = choose_kv_dtype(config, dtype)
    longest = min(config.max_context or decoder.max_position, decoder.max_position)
    num_blocks = choose_num_blocks(config, device, bytes_per_token(heads, kv_dtype), longest)
    if group is not None:
        num_blocks = group.least(num_blocks)
        if not group.same(processors(device)):
            raise InvalidRequestError("tensor_parallel_size needs GPUs of one kind: choose by CUDA_VISIBLE_DEVICES")
    pool = KVPool(heads, num_blocks, config.block_size, dtype=kv_dtype, device=device)
    return pool, make_attention(config, pool, decoder)

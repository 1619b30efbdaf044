"""Loads one model for both sides: from files, or of a named shape with random weights."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
import transformers
from transformers import AutoModelForCausalLM

from benchmarks.random_model import SHAPES, decoder_of, make_tokenizer, random_transformers
from engine.config import EngineConfig
from engine.device import choose_device, choose_dtype
from engine.model import LoadedModel, equip, load_model
from engine.models.resolve import resolve_model


@dataclass(frozen=True)
class Models:
    """The same weights for the engine and, as a transformers model, for the peer."""

    engine: LoadedModel
    peer: Any

    def another(self, config: EngineConfig) -> LoadedModel:
        """The engine's weights once more, with KV of its own."""
        return equip(config, self.engine.decoder, self.engine.tokenizer, self.engine.model_fingerprint)


def load(config: EngineConfig) -> Models:
    """The model that `config` names.

    Raises:
        EngineError: the engine can't load it.
    """
    model = load_model(config)
    transformers.utils.logging.disable_progress_bar()
    peer = AutoModelForCausalLM.from_pretrained(
        resolve_model(config.model), dtype=model.dtype, attn_implementation="sdpa", local_files_only=True
    )
    return Models(model, peer.to(model.device).eval())


def load_both(config: EngineConfig, shape: str | None, texts: Iterable[str]) -> Models:
    """The model that `config` names, or if there is a `shape` a random one of it, for both sides.

    Raises:
        EngineError: it can't be loaded.
    """
    return make_random(config, shape, texts) if shape else load(config)


def load_engine(config: EngineConfig, shape: str | None, texts: Iterable[str]) -> LoadedModel:
    """The engine's model alone: the one that `config` names, or if there is a `shape` a random one of it.

    Raises:
        EngineError: it can't be loaded.
    """
    return make_random(config, shape, texts).engine if shape else load_model(config)


def make_random(config: EngineConfig, shape: str, texts: Iterable[str]) -> Models:
    """A random model of `shape`; its tokenizer learns from `texts`.

    Raises:
        ValueError: several GPUs are asked for.
    """
    if config.tensor_parallel_size > 1:
        raise ValueError("random models are shared by several GPUs in benchmarks.parallel only")
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    device = choose_device(config)
    peer = random_transformers(shape, device, choose_dtype(config, device))
    decoder, fingerprint = decoder_of(peer)
    return Models(equip(config, decoder, make_tokenizer(texts, SHAPES[shape]["vocab_size"]), fingerprint), peer)

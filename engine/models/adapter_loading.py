"""From a folder to a `TransformersModel`: whatever architecture and quantization transformers can load.

Only safetensors, never code from the folder. Knows how transformers fails; knows no architecture, and of quantization
only that `quantization` does.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors import SafetensorError
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText
from transformers.utils import logging as transformers_logging

from engine.errors import BrokenModelError, UnsupportedModelError
from engine.models.adapter import TransformersModel
from engine.models.loading import weights_fingerprint
from engine.models.progress import Progress, silent
from engine.models.quantization import quantization_of

_VERSION = 1
"""Counts up when the adapter computes another KV than before."""


def load_transformers_model(
    folder: Path,
    *,
    device: torch.device,
    dtype: torch.dtype,
    max_context: int | None = None,
    progress: Progress | None = None,
) -> TransformersModel:
    """Load the model in `folder` with transformers' code and take its attention over.

    Args:
        dtype: of the weights in memory. Quantized weights are made for the dtype that their config names and keep to
            it, unless they are dequantized and `dtype` is float32.
        max_context: longest text it will see, tokens; None for the model's own limit.
        progress: called with a message.

    Raises:
        UnsupportedModelError: transformers doesn't know the architecture, lacks what it needs to load it (`packages`
            of the error's data names what to install), or its attention can't be run by the engine.
        BrokenModelError: files are damaged or missing.
    """
    (progress or silent)("Loading weights with transformers", None)
    with _known_failures(folder), _without_progress_bars():
        config: Any = _read_config(folder)
        quantization = quantization_of(config)
        if quantization is not None:
            quantization.require_support()
            quantization.prepare(device)
        model, report = _class_for(config).from_pretrained(
            folder,
            config=config,
            dtype=dtype if quantization is None else "auto",
            device_map={"": device},
            attn_implementation="eager",
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=True,
            output_loading_info=True,
        )
    missing = sorted(report["missing_keys"])
    if missing:
        raise BrokenModelError(f"the weights in {folder} lack {', '.join(missing[:3])}", tensors=missing)
    if quantization is not None and dtype is torch.float32 and not getattr(model, "is_quantized", False):
        model.float()  # other dtypes than float32 would round weights that a model keeps in float32
    return TransformersModel(model.eval(), max_context=max_context, quantized=quantization is not None)


def transformers_fingerprint(folder: Path, dtype: torch.dtype) -> bytes:
    """As `model_fingerprint`, for a model run by transformers: its whole config counts, and whose code runs it."""
    sha = hashlib.sha256(f"transformers {transformers.__version__} adapter {_VERSION}".encode())
    sha.update(json.dumps(json.loads((folder / "config.json").read_text()), sort_keys=True).encode())
    quantization = quantization_of(_read_config(folder))
    if quantization is not None:
        sha.update(quantization.versions.encode())
    return weights_fingerprint(folder, sha.digest(), dtype)


def _read_config(folder: Path) -> Any:
    return AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)


def _class_for(config: Any) -> Any:
    """A plain language model where transformers has one for this config, else one that would also look at images."""
    causal: Any = AutoModelForCausalLM
    images: Any = AutoModelForImageTextToText
    kind = type(config)
    return images if kind in images._model_mapping and kind not in causal._model_mapping else causal


@contextmanager
def _known_failures(folder: Path) -> Iterator[None]:
    """What transformers raises while it loads, as errors of the engine."""
    try:
        yield
    except (ImportError, NotImplementedError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UnsupportedModelError(f"transformers can't load {folder}: {_first_sentence(error)}") from error
    except (OSError, RuntimeError, SafetensorError) as error:
        raise BrokenModelError(f"{folder} can't be loaded: {_first_sentence(error)}") from error


@contextmanager
def _without_progress_bars() -> Iterator[None]:
    shown = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            transformers_logging.enable_progress_bar()


def _first_sentence(error: Exception) -> str:
    """transformers adds pages of advice to some errors."""
    text: Any = str(error).strip() or repr(error)
    return str(text.splitlines()[0]).split(". ")[0].strip()

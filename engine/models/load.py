"""Which code runs a model: the native decoder where it can, transformers' own for everything else."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch

from engine.errors import UnsupportedModelError
from engine.models.decoder import Decoder
from engine.models.decoder_config import read_decoder_config
from engine.models.gguf import is_conversion
from engine.models.language_model import LanguageModel
from engine.models.loading import load_decoder, model_fingerprint
from engine.models.packed_weights import open_packed
from engine.models.progress import Progress, silent
from engine.models.proof import check_moving

if TYPE_CHECKING:
    from engine.parallel.group import Group


def load_language_model(
    folder: Path,
    *,
    device: torch.device,
    dtype: torch.dtype,
    max_context: int | None = None,
    packed: bool = True,
    progress: Progress | None = None,
) -> tuple[LanguageModel, bytes]:
    """The model in `folder`, with what is proven of it in `exact_only`, and its fingerprint (32 bytes).

    Args:
        dtype: of the weights in memory.
        max_context: longest text it will see, tokens; None for the model's own limit.
        packed: whether a decoder on the CPU gets the quantized weights beside these, if there are any in `folder`.
        progress: called with a message and the fraction read so far, or None.

    Raises:
        ModelNotFoundError: no such folder, or no config or safetensors in it.
        UnsupportedModelError: neither the decoder nor transformers with this engine's attention can run it.
        BrokenModelError: files are damaged, missing, or don't fit the config.
    """
    try:
        config = read_decoder_config(folder)
    except UnsupportedModelError:
        # here, because importing transformers' attention and cache takes a while that the native models can save
        from engine.models.adapter_loading import load_transformers_model, transformers_fingerprint

        adapted = load_transformers_model(
            folder, device=device, dtype=dtype, max_context=max_context, progress=progress
        )
        return adapted, transformers_fingerprint(folder, dtype)
    # Another conversion takes the folder's place by rename, and what is mapped stays; a folder of the user's may be
    # written over at any time.
    mapped = is_conversion(folder)
    decoder = load_decoder(folder, device=device, dtype=dtype, mapped=mapped, progress=progress)
    if packed and device.type == "cpu":
        decoder.packed = open_packed(folder)
    (progress or silent)("Trying the model", None)
    return proven(decoder), model_fingerprint(folder, config, dtype)


def load_shard(group: Group, progress: Progress | None, folder: Path, dtype: torch.dtype) -> tuple[Decoder, bytes]:
    """One rank's shard of the model in `folder`; otherwise as `load_language_model`. All ranks must call it.

    Raises:
        UnsupportedModelError: it is no model of the native decoder, or has too few heads for so many ranks.
    """
    decoder = proven(load_decoder(folder, device=group.device, dtype=dtype, progress=progress, group=group))
    return decoder, model_fingerprint(folder, read_decoder_config(folder), dtype)


@torch.inference_mode()
def proven(decoder: Decoder) -> Decoder:
    """The decoder, with what a trial says of moving its KV in `exact_only`."""
    decoder.exact_only = check_moving(decoder)
    return decoder

"""Which operations a decoder is computed with. They are imported when they are chosen: Triton may be absent."""

from __future__ import annotations

import torch

from engine.models.decoder_ops import DecoderOps, TorchOps


def choose_ops(device: torch.device, eps: float) -> DecoderOps:
    """Triton's on CUDA, where Triton is installed; else plain torch."""
    if device.type != "cuda":
        return TorchOps(eps)
    try:
        # only here: the engine does without Triton where there is no GPU
        from engine.models.triton_ops import TritonOps
    except ImportError:
        return TorchOps(eps)
    return TritonOps(eps, device)

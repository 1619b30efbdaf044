"""What a quantized checkpoint needs before transformers can load it: packages, and some have to be dequantized.

Knows the methods by the names their configs give them; knows no architecture and no kernel.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from importlib import metadata
from typing import Any

import torch
from transformers import __version__
from transformers.quantizers.auto import AUTO_QUANTIZATION_CONFIG_MAPPING
from transformers.utils import is_kernels_available

from engine.errors import UnsupportedModelError

PACKAGES: dict[str, tuple[str, ...]] = {
    "torchao": ("torchao",),
    "bitsandbytes": ("bitsandbytes",),
    "compressed-tensors": ("compressed-tensors",),
    "gptq": ("gptqmodel", "optimum"),
    "awq": ("gptqmodel",),
    "auto-round": ("auto-round",),
    "hqq": ("hqq",),
    "quanto": ("optimum-quanto",),
    "aqlm": ("aqlm",),
    "vptq": ("vptq",),
    "eetq": ("kernels",),
}
"""The packages, as pip names them, without which transformers can't load a method; others need none or say so."""

_WITH_FP8_KERNELS = ("fp8", "mxfp8")


@dataclass(frozen=True)
class Quantization:
    """How the weights of a checkpoint are quantized.

    Attributes:
        method: ``quant_method`` of its config.
        settings: all of its ``quantization_config``; the very object that transformers will read.
    """

    method: str
    settings: dict[str, Any]

    @property
    def versions(self) -> str:
        """The installed packages that compute with it, each with its version."""
        return " ".join(f"{name} {metadata.version(name)}" for name in PACKAGES.get(self.method, ()))

    def require_support(self) -> None:
        """Look before transformers does, which would take the weights of an unknown method as they are.

        Raises:
            UnsupportedModelError: an unknown method, or one that takes packages which are not installed.
        """
        if self.method not in (*AUTO_QUANTIZATION_CONFIG_MAPPING, "bitsandbytes"):
            raise UnsupportedModelError(
                f"this checkpoint is quantized with {self.method}, which transformers {__version__} doesn't know"
            )
        missing = [name for name in PACKAGES.get(self.method, ()) if not _installed(name)]
        if missing:
            names = " ".join(missing)
            raise UnsupportedModelError(
                f"this checkpoint is quantized with {self.method}: pip install {names}", packages=missing
            )

    def prepare(self, device: torch.device) -> None:
        """Set what loading on `device` takes.

        compressed-tensors decompresses all weights in the first pass anyway, by a hook on the whole model, which the
        adapter does not call as a whole. FP8 is multiplied by kernels for CUDA that the package `kernels` fetches.
        """
        fp8_without_kernels = self.method in _WITH_FP8_KERNELS and (device.type != "cuda" or not is_kernels_available())
        if self.method == "compressed-tensors" or fp8_without_kernels:
            self.settings["dequantize"] = True
        if self.method == "bitsandbytes":
            # in 8 bits it logs a warning for every product of a dtype other than float16
            logging.getLogger("bitsandbytes.autograd._functions").setLevel(logging.ERROR)


def quantization_of(config: Any) -> Quantization | None:
    """That of a transformers config with ``quantization_config``, of its own or of its language model; else None."""
    for part in (config, config.get_text_config(decoder=True)):
        settings = getattr(part, "quantization_config", None)
        if isinstance(settings, dict):
            return Quantization(_method(settings), settings)
    return None


def _method(settings: dict[str, Any]) -> str:
    """Early bitsandbytes checkpoints don't name it."""
    if settings.get("load_in_8bit") or settings.get("load_in_4bit"):
        return "bitsandbytes"
    return str(settings.get("quant_method", "unknown"))


def _installed(package: str) -> bool:
    try:
        metadata.version(package)
    except metadata.PackageNotFoundError:
        return False
    return True

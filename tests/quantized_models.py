"""Small random models with quantized weights, in the files that the libraries which make such checkpoints write.

Each is quantized by the library itself, or, where there is none, by the format's own definition. Knows transformers and
the libraries, nothing of the engine.
"""

from __future__ import annotations

import functools
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig, TorchAoConfig

from tests.tiny_models import make_tiny_model, session_folder

_BLOCK = 32
# Sizes that all formats can cut into their blocks
_SIZES: dict[str, Any] = {"hidden_size": 64, "intermediate_size": 128}


@dataclass(frozen=True)
class Quantized:
    """How a checkpoint is made.

    Attributes:
        family: of `tests.tiny_models`.
        make: writes a quantized model of a folder, in a dtype and computed on a device, into another folder.
        package: without which it can be neither made nor loaded; None if none is needed.
        rounds: whether not only weights are rounded but, as the model runs, what they are multiplied with.
    """

    family: str
    make: Callable[[Path, Path, torch.dtype, str], None]
    package: str | None = None
    rounds: bool = False


def quantized_model(name: str, dtype: torch.dtype = torch.float32, device: str = "cpu") -> Path:
    """The checkpoint `name` of `QUANTIZED` or `FOR_CUDA`, made on `device`, its unquantized tensors in `dtype`.

    Read it, never change it. Skips the test if the package it takes is not installed.
    """
    package = (QUANTIZED | FOR_CUDA)[name].package
    if package is not None:
        skip_without(package)
    return _made(name, dtype, device)


@functools.cache
def _made(name: str, dtype: torch.dtype, device: str) -> Path:
    recipe = (QUANTIZED | FOR_CUDA)[name]
    source, folder = _source(recipe.family, dtype), session_folder() / f"{name}-{_word(dtype)}-{device}"
    shutil.copytree(source, folder)
    recipe.make(source, folder, dtype, device)
    return folder


def skip_without(package: str) -> None:
    try:
        metadata.version(package)
    except metadata.PackageNotFoundError:
        pytest.skip(f"{package} is not installed")


@functools.cache
def _source(family: str, dtype: torch.dtype) -> Path:
    return make_tiny_model(
        family, session_folder() / f"{family}-{_word(dtype)}-unquantized", dtype=_word(dtype), **_SIZES
    )


def _word(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


# -- by transformers ---------------------------------------------------------------------------------------------------


def _by_transformers(settings: Callable[[], Any]) -> Callable[[Path, Path, torch.dtype, str], None]:
    def make(source: Path, folder: Path, dtype: torch.dtype, device: str) -> None:
        (folder / "model.safetensors").unlink()
        model = AutoModelForCausalLM.from_pretrained(
            source, quantization_config=settings(), dtype=dtype, device_map={"": device}, local_files_only=True
        )
        model.save_pretrained(folder)
        AutoTokenizer.from_pretrained(source).save_pretrained(folder)

    return make


def _torchao(kind: str, **options: Any) -> Callable[[Path, Path, torch.dtype, str], None]:
    def settings() -> Any:
        import torchao.quantization as torchao

        if kind == "IntxWeightOnlyConfig":
            options.update(weight_dtype=torch.int4, granularity=torchao.PerGroup(_BLOCK))  # type: ignore[attr-defined]
        return TorchAoConfig(getattr(torchao, kind)(**options))

    return _by_transformers(settings)


def _bitsandbytes(**options: Any) -> Callable[[Path, Path, torch.dtype, str], None]:
    return _by_transformers(lambda: BitsAndBytesConfig(**options))


# -- by the format's definition ----------------------------------------------------------------------------------------


def _rewritten(folder: Path, quantize: Callable[[str, Tensor], dict[str, Tensor] | None], **settings: Any) -> None:
    """Put what `quantize` makes of a tensor in its place (None leaves it), and `settings` into the config."""
    path, tensors = folder / "model.safetensors", dict[str, Tensor]()
    for name, tensor in load_file(path).items():
        new = quantize(name, tensor)
        tensors |= {name: tensor} if new is None else {key: value.contiguous() for key, value in new.items()}
    save_file(tensors, path, metadata={"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "quantization_config": settings}))


def _is_projection(name: str) -> bool:
    return name.endswith("_proj.weight")


def _fp8(source: Path, folder: Path, dtype: torch.dtype, device: str) -> None:
    """Blocks of float8_e4m3fn with a float32 scale each, as DeepSeek V3 (arXiv 2412.19437, section 3.3) has them."""

    def quantize(name: str, weight: Tensor) -> dict[str, Tensor] | None:
        if not _is_projection(name):
            return None
        rows, columns = weight.shape
        blocks = weight.float().view(rows // _BLOCK, _BLOCK, columns // _BLOCK, _BLOCK)
        scales = blocks.abs().amax((1, 3)) / 448
        rounded = (blocks / scales[:, None, :, None]).to(torch.float8_e4m3fn).view(rows, columns)
        return {name: rounded, f"{name}_scale_inv": scales}

    _rewritten(folder, quantize, quant_method="fp8", weight_block_size=[_BLOCK, _BLOCK], activation_scheme="dynamic")


def _mxfp4(source: Path, folder: Path, dtype: torch.dtype, device: str) -> None:
    """Experts as pairs of 4-bit floats with a power of two for each 32, as gpt-oss has them; the weights are new."""
    generator = torch.Generator().manual_seed(0)

    def quantize(name: str, weight: Tensor) -> dict[str, Tensor] | None:
        if not name.endswith(("experts.gate_up_proj", "experts.down_proj")):
            return None
        experts, inputs, outputs = weight.shape
        shape = (experts, outputs, inputs // 32)
        pairs = torch.randint(256, (*shape, 16), dtype=torch.uint8, generator=generator)
        return {f"{name}_blocks": pairs, f"{name}_scales": torch.full(shape, 127 - 4, dtype=torch.uint8)}

    kept = ["model.layers.*.self_attn", "model.layers.*.mlp.router", "model.embed_tokens", "lm_head"]
    _rewritten(folder, quantize, quant_method="mxfp4", modules_to_not_convert=kept)


def _compressed_tensors(
    layout: str, weights: dict[str, Any], activations: dict[str, Any] | None = None
) -> Callable[[Path, Path, torch.dtype, str], None]:
    """Packed by the library; `weights` and `activations` are its `QuantizationArgs`."""

    def make(source: Path, folder: Path, dtype: torch.dtype, device: str) -> None:
        from compressed_tensors.compressors import BaseCompressor
        from compressed_tensors.quantization import QuantizationScheme

        scheme = {"targets": ["Linear"], "weights": weights, "input_activations": activations, "format": layout}
        compressor: Any = BaseCompressor.get_value_from_registry(layout)
        largest = 448 if weights["type"] == "float" else 2 ** (weights["num_bits"] - 1) - 1

        def quantize(name: str, weight: Tensor) -> dict[str, Tensor] | None:
            if not _is_projection(name):
                return None
            groups = weight.view(len(weight), -1, weights.get("group_size") or weight.shape[1])
            parts = {"weight": weight, "weight_scale": groups.abs().amax(-1) / largest}
            packed = compressor.compress(parts, QuantizationScheme(**scheme))
            return {name.removesuffix("weight") + part: value for part, value in packed.items()}

        _rewritten(
            folder,
            quantize,
            quant_method="compressed-tensors",
            format=layout,
            config_groups={"group_0": scheme},
            ignore=["lm_head"],
            quantization_status="compressed",
        )

    return make


_PER_CHANNEL = {"num_bits": 8, "symmetric": True, "strategy": "channel", "dynamic": False}
_PER_GROUP = {"num_bits": 4, "symmetric": True, "strategy": "group", "group_size": _BLOCK, "dynamic": False}
_PER_TOKEN = {"num_bits": 8, "symmetric": True, "strategy": "token", "dynamic": True}

QUANTIZED: dict[str, Quantized] = {
    "torchao-int8": Quantized("llama", _torchao("Int8WeightOnlyConfig"), "torchao"),
    "torchao-int4": Quantized("gemma3", _torchao("IntxWeightOnlyConfig"), "torchao"),
    "torchao-fp8": Quantized("qwen3", _torchao("Float8WeightOnlyConfig"), "torchao"),
    "torchao-int8-dynamic": Quantized("llama", _torchao("Int8DynamicActivationInt8WeightConfig"), "torchao", True),
    "bitsandbytes-8bit": Quantized("llama", _bitsandbytes(load_in_8bit=True), "bitsandbytes", True),
    "bitsandbytes-4bit": Quantized(
        "gemma3",
        _bitsandbytes(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True),
        "bitsandbytes",
        True,  # where the processor multiplies bfloat16, it does so whatever comes in
    ),
    "compressed-tensors-w4a16": Quantized(
        "gemma3", _compressed_tensors("pack-quantized", {"type": "int", **_PER_GROUP}), "compressed-tensors"
    ),
    # whether dequantizing these also ends the rounding of activations is for the version of transformers
    "compressed-tensors-w8a8": Quantized(
        "llama",
        _compressed_tensors("int-quantized", {"type": "int", **_PER_CHANNEL}, {"type": "int", **_PER_TOKEN}),
        "compressed-tensors",
        True,
    ),
    "compressed-tensors-fp8": Quantized(
        "qwen3",
        _compressed_tensors("float-quantized", {"type": "float", **_PER_CHANNEL}, {"type": "float", **_PER_TOKEN}),
        "compressed-tensors",
        True,
    ),
    "fp8": Quantized("qwen3", _fp8),
    "mxfp4": Quantized("gpt-oss", _mxfp4),
}

# Formats for which a library has only CUDA kernels
FOR_CUDA: dict[str, Quantized] = {
    "torchao-int4-tiles": Quantized(
        "llama", _torchao("Int4WeightOnlyConfig", group_size=_BLOCK, int4_packing_format="tile_packed_to_4d"), "torchao"
    ),
    "torchao-fp8-dynamic": Quantized("qwen3", _torchao("Float8DynamicActivationFloat8WeightConfig"), "torchao", True),
}

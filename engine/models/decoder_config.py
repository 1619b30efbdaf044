"""What the decoder needs to know of a model: shapes, flags and layers, read from the config transformers parses.

The Llama family differs in a few flags only; which fields of its config an architecture really obeys stands in the
table below. Knows nothing of weights, and of tensors only RoPE's frequencies.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from transformers import AutoConfig, GenerationConfig, PreTrainedConfig

from engine.errors import BrokenModelError, ModelNotFoundError, UnsupportedModelError
from engine.models.language_model import LayerSpec
from engine.models.rotary import RopeFrequencies


@dataclass(frozen=True)
class DecoderConfig:
    """One model of the Llama family.

    Attributes:
        max_position: longest sequence the model was made for, tokens.
        eos_token_ids: tokens that end an answer.
        layers: one entry per layer, for the attention backend.
        qkv_bias, output_bias, mlp_bias: whether these projections add a bias.
        qk_norm: RMSNorm of each query and key head before RoPE.
        tied_embeddings: the output matrix is the embedding.
    """

    model_type: str
    hidden_size: int
    intermediate_size: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    vocab_size: int
    max_position: int
    rms_norm_eps: float
    eos_token_ids: tuple[int, ...]
    layers: tuple[LayerSpec, ...]
    rope: RopeFrequencies
    qkv_bias: bool
    output_bias: bool
    mlp_bias: bool
    qk_norm: bool
    tied_embeddings: bool

    @property
    def num_layers(self) -> int:
        return len(self.layers)

    def digest(self) -> bytes:
        """SHA-256 of every field that changes what the model computes (so not when an answer ends, or how long)."""
        fields = asdict(self)
        del fields["eos_token_ids"], fields["max_position"]
        return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).digest()


@dataclass(frozen=True)
class _Family:
    """Which fields of its config an architecture obeys; transformers ignores the others, so they are ignored here.

    Attributes:
        biases: of `attention_bias` and `mlp_bias`, those that count.
        windows: ``none``, ``all`` layers, or as `layer_types` says.
    """

    architecture: str
    biases: tuple[str, ...] = ()
    always_qkv_bias: bool = False
    qk_norm: bool = False
    windows: str = "none"
    nope_layers: bool = False


_FAMILIES = {
    "llama": _Family("LlamaForCausalLM", biases=("attention_bias", "mlp_bias")),
    "mistral": _Family("MistralForCausalLM", windows="all"),
    "qwen2": _Family("Qwen2ForCausalLM", always_qkv_bias=True, windows="layer_types"),
    "qwen3": _Family("Qwen3ForCausalLM", biases=("attention_bias",), qk_norm=True, windows="layer_types"),
    "smollm3": _Family(
        "SmolLM3ForCausalLM", biases=("attention_bias", "mlp_bias"), windows="layer_types", nope_layers=True
    ),
}


def read_decoder_config(folder: Path) -> DecoderConfig:
    """Read the config of the model in `folder`.

    Raises:
        ModelNotFoundError: no such folder, or no config.json in it.
        UnsupportedModelError: another architecture, or a feature that is not supported.
        BrokenModelError: config.json is damaged.
    """
    if not (folder / "config.json").is_file():
        raise ModelNotFoundError(f"{folder} is not a model's folder: it has no config.json")
    family = _supported_family(folder)
    config = _transformers_config(folder)
    if getattr(config, "quantization_config", None) is not None:
        raise UnsupportedModelError(f"{folder}: quantized weights are not supported; use float weights or a GGUF file")
    if config.hidden_act != "silu":
        raise UnsupportedModelError(f"{folder}: activation {config.hidden_act!r} is not supported; supported is silu")
    try:
        return _decoder_config(config, family, _eos_token_ids(folder, config))
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        raise BrokenModelError(f"{folder}/config.json is not valid: {error!r}") from error


def _supported_family(folder: Path) -> _Family:
    """Look before AutoConfig does: it meets unknown model types with a page of advice, and knows many that we don't."""
    try:
        fields = {**PreTrainedConfig.get_config_dict(folder, local_files_only=True)[0]}
    except Exception as error:  # whatever a damaged file makes of a parser, or a list where an object should be
        raise BrokenModelError(f"{folder}/config.json can't be read: {error}") from error
    model_type = str(fields.get("model_type", "unknown"))
    family = _FAMILIES.get(model_type)
    found = fields.get("architectures") or [family.architecture if family else model_type]
    if family is None or family.architecture not in found:
        supported = ", ".join(known.architecture for known in _FAMILIES.values())
        raise UnsupportedModelError(
            f"{folder}: architecture {found[0]} is not supported; supported are {supported}", architecture=found[0]
        )
    return family


def _transformers_config(folder: Path) -> Any:
    try:
        return AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # transformers' validation raises errors of many types
        raise BrokenModelError(f"{folder}/config.json is not valid: {error}") from error


def _decoder_config(config: Any, family: _Family, eos_token_ids: tuple[int, ...]) -> DecoderConfig:
    attention_bias, mlp_bias = (
        name in family.biases and bool(getattr(config, name)) for name in ("attention_bias", "mlp_bias")
    )
    return DecoderConfig(
        model_type=config.model_type,
        hidden_size=config.hidden_size,
        intermediate_size=config.intermediate_size,
        num_heads=config.num_attention_heads,
        num_kv_heads=config.num_key_value_heads,
        head_dim=_head_dim(config),
        vocab_size=config.vocab_size,
        max_position=config.max_position_embeddings,
        rms_norm_eps=config.rms_norm_eps,
        eos_token_ids=eos_token_ids,
        layers=_layers(config, family),
        rope=RopeFrequencies.from_transformers(config),
        qkv_bias=attention_bias or family.always_qkv_bias,
        output_bias=attention_bias,
        mlp_bias=mlp_bias,
        qk_norm=family.qk_norm,
        tied_embeddings=bool(config.tie_word_embeddings),
    )


def _layers(config: Any, family: _Family) -> tuple[LayerSpec, ...]:
    count = config.num_hidden_layers
    sliding = [False] * count
    if family.windows == "all":
        sliding = [config.sliding_window is not None] * count
    elif family.windows == "layer_types":
        sliding = [kind == "sliding_attention" for kind in config.layer_types]
    rope = config.no_rope_layers if family.nope_layers else [1] * count
    return tuple(
        LayerSpec(
            num_heads=config.num_attention_heads,
            num_kv_heads=config.num_key_value_heads,
            head_dim=_head_dim(config),
            scale=float(_head_dim(config) ** -0.5),
            rotary=0 if rope[i] else None,
            window=config.sliding_window if sliding[i] else None,
        )
        for i in range(count)
    )


def _head_dim(config: Any) -> int:
    return int(getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads)


def _eos_token_ids(folder: Path, config: Any) -> tuple[int, ...]:
    """Union of what the config and the generation config name: chat models keep the end of a turn in the latter."""
    found = [config.eos_token_id]
    if (folder / "generation_config.json").is_file():
        try:
            found.append(GenerationConfig.from_pretrained(folder, local_files_only=True).eos_token_id)
        except Exception as error:  # as above
            raise BrokenModelError(f"{folder}/generation_config.json can't be read: {error}") from error
    listed = [ids if isinstance(ids, list) else [ids] for ids in found]
    return tuple(sorted({token for ids in listed for token in ids if token is not None}))

"""Models of real shapes with random weights, made on the device itself: what speed depends on, without any download.

The engine's fused weights are copied from the transformers model's, so both sides compute with the same numbers.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import tokenizers
import torch
from tokenizers import decoders, models, pre_tokenizers, trainers
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

from engine.models.checkpoint import Checkpoint
from engine.models.decoder import Decoder
from engine.models.decoder_config import DecoderConfig, read_decoder_config
from engine.models.loading import read_decoder
from engine.parallel.group import Group
from engine.tokenizer import Tokenizer

SHAPES: dict[str, dict[str, Any]] = {
    "qwen2.5-7b": {
        "model_type": "qwen2",
        "hidden_size": 3584,
        "intermediate_size": 18944,
        "num_hidden_layers": 28,
        "num_attention_heads": 28,
        "num_key_value_heads": 4,
        "vocab_size": 152064,
        "max_position_embeddings": 131072,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1000000.0},
        "rms_norm_eps": 1e-6,
        "tie_word_embeddings": False,
    },
    "llama-3.1-8b": {
        "model_type": "llama",
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "vocab_size": 128256,
        "max_position_embeddings": 131072,
        "rope_parameters": {
            "rope_type": "llama3",
            "rope_theta": 500000.0,
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 8192,
        },
        "rms_norm_eps": 1e-5,
        "tie_word_embeddings": False,
    },
    "qwen2.5-32b": {
        "model_type": "qwen2",
        "hidden_size": 5120,
        "intermediate_size": 27648,
        "num_hidden_layers": 64,
        "num_attention_heads": 40,
        "num_key_value_heads": 8,
        "vocab_size": 152064,
        "max_position_embeddings": 32768,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1000000.0},
        "rms_norm_eps": 1e-6,
        "tie_word_embeddings": False,
    },
    "qwen2.5-72b": {
        "model_type": "qwen2",
        "hidden_size": 8192,
        "intermediate_size": 29568,
        "num_hidden_layers": 80,
        "num_attention_heads": 64,
        "num_key_value_heads": 8,
        "vocab_size": 152064,
        "max_position_embeddings": 32768,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1000000.0},
        "rms_norm_eps": 1e-6,
        "tie_word_embeddings": False,
    },
    "qwen3-0.6b": {
        "model_type": "qwen3",
        "hidden_size": 1024,
        "intermediate_size": 3072,
        "num_hidden_layers": 28,
        "num_attention_heads": 16,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "vocab_size": 151936,
        "max_position_embeddings": 40960,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1000000.0},
        "rms_norm_eps": 1e-6,
        "tie_word_embeddings": True,
    },
}

_SEED = 20
_DTYPES = {torch.float32: "F32", torch.bfloat16: "BF16"}
_LEARNED_TOKENS = 4096
_END = "<|im_end|>"
_SPECIAL = ("<|endoftext|>", "<|im_start|>", _END)
_CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def random_transformers(shape: str, device: torch.device, dtype: torch.dtype) -> Any:
    """A transformers model of `shape`, a key of `SHAPES`, with random weights on `device`, the same for every run."""
    with torch.device(device):
        model = AutoModelForCausalLM.from_config(_config(shape), dtype=dtype, attn_implementation="sdpa").eval()
    generator = torch.Generator(device).manual_seed(_SEED)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            _randomise(name, parameter, generator)
        # no answer ends by itself: the end of a turn is never the likeliest token
        model.get_output_embeddings().weight[_SPECIAL.index(_END)] *= 0.01
    return model


def _randomise(name: str, tensor: Tensor, generator: torch.Generator) -> None:
    if tensor.dim() == 2:
        tensor.normal_(std=tensor.shape[1] ** -0.5, generator=generator)
    else:
        tensor.fill_(1.0 if "norm" in name else 0.0)


def decoder_config(shape: str) -> DecoderConfig:
    """What the engine's decoder knows of a model of `shape`."""
    return _read(_config(shape))


def _config(shape: str) -> Any:
    return _config_of(SHAPES[shape])


def _config_of(fields: Mapping[str, Any]) -> Any:
    return AutoConfig.for_model(**fields, bos_token_id=None, eos_token_id=_SPECIAL.index(_END), pad_token_id=0)


def _read(config: Any) -> DecoderConfig:
    with tempfile.TemporaryDirectory() as folder:
        config.save_pretrained(folder)
        return read_decoder_config(Path(folder))


def decoder_of(model: Any) -> tuple[Decoder, bytes]:
    """The engine's decoder with the weights of a transformers model, in the same place and dtype, and a fingerprint."""
    config = _read(model.config)
    tensors = model.state_dict()
    decoder = read_decoder(
        Checkpoint(dict.fromkeys(tensors, _InMemory(tensors))), config, device=model.device, dtype=model.dtype
    )
    return decoder, hashlib.sha256(config.digest() + f"random {_SEED} {model.dtype}".encode()).digest()


def load_random_shard(
    group: Group, progress: object, fields: Mapping[str, Any], dtype: torch.dtype
) -> tuple[Decoder, bytes]:
    """One rank's shard of `make_random_decoder`'s model."""
    return make_random_decoder(fields, group.device, dtype, group)


def make_random_decoder(
    fields: Mapping[str, Any], device: torch.device, dtype: torch.dtype, group: Group | None = None
) -> tuple[Decoder, bytes]:
    """A random model of a shape (a value of `SHAPES`), or of a group's only the shard; one tensor at a time is whole.

    The weights are the same on all ranks, but others than `random_transformers` makes.
    """
    of_model = _config_of(fields)
    with torch.device("meta"):
        parameters = dict(AutoModelForCausalLM.from_config(of_model).named_parameters())
    shapes = {name: tuple(parameter.shape) for name, parameter in parameters.items()}
    source = Checkpoint(dict.fromkeys(shapes, _Made(shapes, device, dtype)))
    config = _read(of_model)
    decoder = read_decoder(source, config, device=device, dtype=dtype, group=group)
    return decoder, hashlib.sha256(config.digest() + f"made {_SEED} {dtype}".encode()).digest()


class _Made:
    """Tensors that are made when they are read, each from a seed of its own, read like a safetensors file."""

    def __init__(self, shapes: Mapping[str, tuple[int, ...]], device: torch.device, dtype: torch.dtype) -> None:
        self._shapes = shapes
        self._device, self._dtype = device, dtype

    def get_tensor(self, name: str) -> Tensor:
        tensor = torch.empty(self._shapes[name], device=self._device, dtype=self._dtype)
        seed = int.from_bytes(hashlib.sha256(name.encode()).digest()[:4])
        _randomise(name, tensor, torch.Generator(self._device).manual_seed(seed + _SEED))
        if name in ("lm_head.weight", "model.embed_tokens.weight"):
            tensor[_SPECIAL.index(_END)] *= 0.01  # as above
        return tensor

    def get_slice(self, name: str) -> _MadeSlice:
        return _MadeSlice(self, name)

    def shape(self, name: str) -> list[int]:
        return list(self._shapes[name])

    @property
    def dtype(self) -> str:
        return _DTYPES[self._dtype]


class _MadeSlice:
    def __init__(self, source: _Made, name: str) -> None:
        self._source, self._name = source, name

    def get_shape(self) -> list[int]:
        return self._source.shape(self._name)

    def get_dtype(self) -> str:
        return self._source.dtype

    def __getitem__(self, part: tuple[slice, ...]) -> Tensor:
        return self._source.get_tensor(self._name)[part]


class _InMemory:
    """Tensors that are there already, read like a safetensors file."""

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        self._tensors = tensors

    def get_tensor(self, name: str) -> Tensor:
        return self._tensors[name]

    def get_slice(self, name: str) -> _Slice:
        return _Slice(self._tensors[name])


class _Slice:
    def __init__(self, tensor: Tensor) -> None:
        self._tensor = tensor

    def get_shape(self) -> list[int]:
        return list(self._tensor.shape)

    def get_dtype(self) -> str:
        return _DTYPES[self._tensor.dtype]


def make_tokenizer(texts: Iterable[str], vocab_size: int) -> Tokenizer:
    """A byte-level BPE with a ChatML template that has learned its merges from `texts`.

    Tokens beyond those are there by name alone, so that whatever a model with `vocab_size` tokens says has a text.
    """
    trained = _byte_level(models.BPE())
    trainer = trainers.BpeTrainer(
        vocab_size=min(vocab_size, _LEARNED_TOKENS),
        special_tokens=list(_SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    trained.train_from_iterator(texts, trainer)
    learned = json.loads(trained.to_str())["model"]
    vocab = {**learned["vocab"], **{f"<{number}>": number for number in range(len(learned["vocab"]), vocab_size)}}
    whole = _byte_level(models.BPE(vocab=vocab, merges=[tuple(merge) for merge in learned["merges"]]))
    whole.add_special_tokens(list(_SPECIAL))
    return Tokenizer(
        PreTrainedTokenizerFast(
            tokenizer_object=whole, eos_token=_END, pad_token="<|endoftext|>", chat_template=_CHATML
        )
    )


def _byte_level(model: Any) -> tokenizers.Tokenizer:
    tokenizer = tokenizers.Tokenizer(model)
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer

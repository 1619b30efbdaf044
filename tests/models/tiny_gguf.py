"""Writes tiny random models as GGUF files, the way llama.cpp's converter lays them out.

The model it is made from is then the oracle for whatever reads the GGUF. Knows gguf, nothing of the engine.
"""

from __future__ import annotations

import json
from pathlib import Path

import gguf
import numpy as np
import torch
from gguf import GGMLQuantizationType as Type
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerFast

from tests.tiny_models import tiny_model

CONTROL, NORMAL = 3, 1

ARCHITECTURES = {"llama": "llama", "qwen2": "qwen2", "qwen3": "qwen3", "phi3": "phi3", "gemma3": "gemma3"}
"""Families (keys of `FAMILIES`) whose quantized GGUF is read in a test, and llama.cpp's names of them."""


def tiny_qwen2() -> PreTrainedModel:
    """The oracle: tied, float32."""
    return AutoModelForCausalLM.from_pretrained(tiny_model("qwen2"), dtype=torch.float32)


def quantized(weight: torch.Tensor, kind: Type) -> torch.Tensor:
    """What is left of a float32 matrix [rows, columns] after `kind`, as float32."""
    return torch.from_numpy(gguf.dequantize(gguf.quantize(weight.detach().numpy(), kind), kind))


def write_gguf(
    path: Path,
    *,
    embedding: tuple[torch.Tensor, Type],
    output: tuple[torch.Tensor, Type] | None,
    pre: str = "qwen2",
) -> Path:
    """`tiny_qwen2` with this embedding and this output matrix [vocabulary, width], each quantized as it says."""
    model, writer = tiny_qwen2(), gguf.GGUFWriter(path, "qwen2")
    _write_config(writer, model.config)
    _write_tokenizer(writer, AutoTokenizer.from_pretrained(tiny_model("qwen2")), pre)
    matrices = {"token_embd.weight": embedding, **({"output.weight": output} if output else {})}
    for name, (weight, kind) in matrices.items():
        writer.add_tensor(name, gguf.quantize(weight.detach().numpy(), kind), raw_dtype=kind)
    for name, weight in model.named_parameters():
        if "embed_tokens" not in name and "lm_head" not in name:
            writer.add_tensor(_gguf_name(name, model, "qwen2"), weight.detach().numpy().astype(np.float32))
    return _written(writer, path)


def write_family_gguf(path: Path, family: str, model: PreTrainedModel) -> Path:
    """`model`, a small one of `family` (a key of `ARCHITECTURES`), with every matrix quantized to Q8_0.

    The model itself gets the weights that are left of its own, in the precision that conversion keeps (bfloat16).
    """
    architecture = ARCHITECTURES[family]
    writer = gguf.GGUFWriter(path, architecture)
    _write_config(writer, model.config)
    head_dim = getattr(model.config, "head_dim", None) or model.config.hidden_size // model.config.num_attention_heads
    writer.add_key_length(head_dim)
    writer.add_value_length(head_dim)
    if getattr(model.config, "sliding_window", None):
        writer.add_sliding_window(model.config.sliding_window)
    _write_tokenizer(writer, AutoTokenizer.from_pretrained(tiny_model("qwen2")), "qwen2")
    for name, weight in model.named_parameters():
        stored = _as_stored(name, weight.detach(), model, architecture)
        kind = Type.Q8_0 if weight.dim() == 2 else Type.F32
        writer.add_tensor(_gguf_name(name, model, architecture), gguf.quantize(stored.numpy(), kind), raw_dtype=kind)
        with torch.no_grad():
            weight.copy_((quantized(weight, kind) if weight.dim() == 2 else weight).bfloat16())
    return _written(writer, path)


def _as_stored(name: str, weight: torch.Tensor, model: PreTrainedModel, architecture: str) -> torch.Tensor:
    """What llama.cpp's converter makes of a weight before it is quantized."""
    if architecture == "llama" and ("q_proj" in name or "k_proj" in name):
        # a head's dims in pairs of neighbours, where transformers has halves
        heads = model.config.num_attention_heads if "q_proj" in name else model.config.num_key_value_heads
        return weight.view(heads, 2, -1, weight.shape[1]).transpose(1, 2).reshape(weight.shape).contiguous()
    if architecture == "gemma3" and "norm.weight" in name:
        return weight + 1
    return weight


def _gguf_name(name: str, model: PreTrainedModel, architecture: str) -> str:
    kind = {name: kind for kind, name in gguf.MODEL_ARCH_NAMES.items()}[architecture]
    names = gguf.get_tensor_name_map(kind, model.config.num_hidden_layers)
    gguf_name = names.get_name(name, (".weight", ".bias"))
    assert gguf_name is not None, name
    return gguf_name


def _written(writer: gguf.GGUFWriter, path: Path) -> Path:
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _write_config(writer: gguf.GGUFWriter, config: PreTrainedConfig) -> None:
    writer.add_name("Tiny")
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    rope = config.rope_parameters
    writer.add_rope_freq_base(rope.get("full_attention", rope)["rope_theta"])
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)


def _write_tokenizer(writer: gguf.GGUFWriter, tokenizer: PreTrainedTokenizerFast, pre: str) -> None:
    controls = set(tokenizer.added_tokens_decoder)
    tokens = tokenizer.convert_ids_to_tokens(range(len(tokenizer)))
    merges = json.loads(tokenizer.backend_tokenizer.to_str())["model"]["merges"]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(tokens)
    writer.add_token_types([CONTROL if number in controls else NORMAL for number in range(len(tokens))])
    writer.add_token_merges([" ".join(pair) for pair in merges])
    writer.add_eos_token_id(tokenizer.eos_token_id)
    writer.add_pad_token_id(tokenizer.pad_token_id)
    writer.add_chat_template(tokenizer.chat_template)

"""Writes a tiny random model as a GGUF file, the way llama.cpp's converter lays it out.

The model it is made from is then the oracle for whatever reads the GGUF. Knows gguf, nothing of the engine.
"""

from __future__ import annotations

import json
from pathlib import Path

import gguf
import numpy as np
import torch
from gguf import GGMLQuantizationType as Type
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerFast

from tests.tiny_models import tiny_model

CONTROL, NORMAL = 3, 1


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
    _write_config(writer, model)
    _write_tokenizer(writer, AutoTokenizer.from_pretrained(tiny_model("qwen2")), pre)
    matrices = {"token_embd.weight": embedding, **({"output.weight": output} if output else {})}
    for name, (weight, kind) in matrices.items():
        writer.add_tensor(name, gguf.quantize(weight.detach().numpy(), kind), raw_dtype=kind)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.QWEN2, model.config.num_hidden_layers)
    for name, weight in model.named_parameters():
        if "embed_tokens" not in name and "lm_head" not in name:
            gguf_name = names.get_name(name, (".weight", ".bias"))
            assert gguf_name is not None, name
            writer.add_tensor(gguf_name, weight.detach().numpy().astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _write_config(writer: gguf.GGUFWriter, model: PreTrainedModel) -> None:
    config = model.config
    writer.add_name("Tiny")
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
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

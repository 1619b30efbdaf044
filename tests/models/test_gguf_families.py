"""Quantized GGUF files of several families: what is made of their weights gives the numbers of those very weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from engine.models import gguf_conversion
from engine.models.load import load_language_model
from engine.models.proof import agrees_with
from tests.models.tiny_gguf import ARCHITECTURES, write_family_gguf
from tests.tiny_models import make_tiny_model

# What a GGUF of the family says nothing about is left as transformers has it by default
DEFAULTS: dict[str, dict[str, Any]] = {
    "qwen3": {"head_dim": 128},
    "gemma3": {
        "num_hidden_layers": 6,
        "layer_types": None,
        "query_pre_attn_scalar": 256,
        "rope_parameters": {
            "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0},
            "full_attention": {"rope_type": "default", "rope_theta": 50000.0},
        },
    },
}


@pytest.mark.parametrize("family", ARCHITECTURES)
def test_a_quantized_gguf_gives_the_numbers_of_its_weights(family: str, tmp_path: Path) -> None:
    original = make_tiny_model(family, tmp_path / "original", **DEFAULTS.get(family, {}))
    expected = AutoModelForCausalLM.from_pretrained(original, dtype=torch.float32, attn_implementation="eager")
    file = write_family_gguf(tmp_path / "tiny.gguf", family, expected)
    # the weights alone: a family's own kind of tokenizer is not in the file
    gguf_conversion.save(gguf_conversion.load(file), tmp_path / "converted")
    model, _ = load_language_model(tmp_path / "converted", device=torch.device("cpu"), dtype=torch.float32)
    assert model.exact_only is None
    with torch.inference_mode():
        assert agrees_with(model, lambda ids: expected(ids[None]).logits[0])

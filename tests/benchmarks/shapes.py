"""A shape small enough for tests, as `benchmarks.random_model.SHAPES` has them."""

from __future__ import annotations

from typing import Any

TINY_SHAPE: dict[str, Any] = {
    "model_type": "qwen3",
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "vocab_size": 5000,
    "max_position_embeddings": 8192,
    "tie_word_embeddings": True,
}

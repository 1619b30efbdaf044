"""Checkpoints with quantized weights: through the engine, their numbers are those of transformers on the same files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoConfig

from engine import Engine, SamplingParams
from engine.models.load import load_language_model
from engine.types import FidelityLabel
from tests.engine.oracle import Oracle, assert_greedy, finish, recorded_logits
from tests.engine.test_parity import FILES, config
from tests.quantized_models import QUANTIZED, quantized_model

QUESTION = "What is read once?"


def logits_after_a_history(folder: Path, **changes: object) -> tuple[list[int], list[Tensor]]:
    """An exact prompt, and the logits [vocab] of each token of its answer, after chunks have come, gone and moved."""
    with Engine(config(folder, **changes)) as engine:
        context = engine.context()
        for source, text in FILES.items():
            context.add_chunk(text, source=source)
        context.populate()
        assert context.wait_populated(60)
        context.deactivate("a.py")
        moved = finish(context.chat(QUESTION, SamplingParams(max_tokens=3), fidelity="instant"))
        assert FidelityLabel.EXACT not in {chunk.fidelity for chunk in moved.chunks}
        context.add_chunk(FILES["c.py"] * 2, source="c.py")
        ids = context.prompt_tokens(QUESTION, fidelity="exact")
        params = SamplingParams(max_tokens=6)
        with recorded_logits(engine, params) as recorded:
            finish(context.chat(QUESTION, params, fidelity="exact"))
        engine.check_integrity()
        return ids, recorded


def own_run(folder: Path, device: str = "cpu") -> Oracle:
    """transformers' own run in the dtype that the checkpoint names, with what the engine dequantizes dequantized."""
    settings: Any = AutoConfig.from_pretrained(folder, local_files_only=True)
    if settings.quantization_config["quant_method"] in ("compressed-tensors", "fp8"):
        settings.quantization_config["dequantize"] = True
    own = Oracle(folder, dtype="auto", device=device, config=settings)
    if not getattr(own.model, "is_quantized", False):
        own.model.to(own.model.dtype)  # some versions dequantize to bfloat16 whatever the other weights are
    return own


def distance(logits: Tensor, expected: Tensor) -> float:
    logits, expected = logits.float().cpu(), expected.float().cpu()
    return float((logits - expected).norm() / expected.norm())


@pytest.mark.parametrize("name", [name for name, recipe in QUANTIZED.items() if not recipe.rounds])
def test_where_only_weights_are_rounded_the_tokens_are_transformers_own(name: str) -> None:
    folder = quantized_model(name)
    ids, recorded = logits_after_a_history(folder)
    tokens, logits = own_run(folder).greedy(ids, len(recorded))
    assert_greedy(recorded, tokens, logits)


@pytest.mark.parametrize("name", [name for name, recipe in QUANTIZED.items() if recipe.rounds])
def test_where_activations_are_rounded_to_8_bits_the_logits_are_as_close_as_those_allow(name: str) -> None:
    folder = quantized_model(name)
    ids, recorded = logits_after_a_history(folder)
    assert distance(recorded[0], own_run(folder).logits(ids)[-1]) < 0.1


@pytest.mark.parametrize("name", QUANTIZED)
def test_kv_of_all_can_be_moved(name: str) -> None:
    model, _ = load_language_model(quantized_model(name), device=torch.device("cpu"), dtype=torch.float32)
    assert model.exact_only is None


@pytest.mark.parametrize("name", QUANTIZED)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_checkpoints_in_bfloat16_run_whatever_dtype_is_asked_for(name: str, dtype: str) -> None:
    folder = quantized_model(name, torch.bfloat16)
    ids, recorded = logits_after_a_history(folder, dtype=dtype)
    assert distance(recorded[0], own_run(folder).logits(ids)[-1]) < 0.15

"""A real model's answers by its packed weights, beside those by the same weights in float32."""

from __future__ import annotations

import textwrap
from pathlib import Path

import pytest
import torch
from torch import Tensor

from benchmarks.divergence import Divergence
from engine.attention.base import AttentionRow
from engine.config import EngineConfig
from engine.hashing import token_array
from engine.kv.segment import Segment
from engine.kv.virtual_block_table import Placement, VirtualBlockTable
from engine.model import LoadedModel, load_model
from engine.models.decoder import Decoder
from engine.models.resolve import resolve_model
from engine.native.prepare import prepare_stepper
from engine.runtime.native_steps import NativeSteps
from engine.runtime.runner import Runner
from engine.runtime.scheduler import StepRow

PROMPT, ANSWER = 150, 48
MOST_KL = 0.01
"""Mean divergence of the next token's distribution, nats."""


@pytest.fixture(scope="module")
def model() -> LoadedModel:
    """smollm2-135m in float32, and its packed weights."""
    config = EngineConfig(model=str(resolve_model("smollm2-135m")), device="cpu", dtype="float32", kv_cache_tokens=2048)
    return load_model(config)


def decoded(model: LoadedModel, steps: NativeSteps | None) -> Tensor:
    """Logits behind each of ANSWER tokens of a text, read one by one behind PROMPT others; float32 [ANSWER, vocab]."""
    runner = Runner(model.decoder, model.attention, model.device)
    text = Path(textwrap.__file__).read_text()
    tokens = token_array(model.tokenizer.encode(text, special=False)[: PROMPT + ANSWER])
    size = model.pool.block_size
    nothing = VirtualBlockTable.build([], size)
    prompt = Segment(b"", tokens[:PROMPT], 0, [0, 1, 2], 0)
    runner.run([StepRow(None, AttentionRow(nothing, prompt, PROMPT), prompt.tokens, 0)])  # type: ignore[arg-type]
    prompt.filled = PROMPT
    table = nothing.then(Placement(prompt, 0, PROMPT))
    answer, logits = Segment(b"", tokens[PROMPT:], PROMPT, [3], 0), list[Tensor]()
    for index in range(ANSWER):
        row = StepRow(None, AttentionRow(table, answer, 1), answer.tokens[index : index + 1], 1)  # type: ignore[arg-type]
        computed = runner.run([row]) if steps is None else steps.run([row], [0])
        assert computed is not None
        assert computed[0] is not None
        logits.append(computed[0])
        answer.filled += 1
    return torch.cat(logits)


def test_packed_weights_say_what_the_dequantized_do(model: LoadedModel) -> None:
    assert isinstance(model.decoder, Decoder)
    assert len(model.decoder.packed) == 7 * len(model.decoder.layers) + 1, "every matrix is packed"
    stepper = prepare_stepper(model.decoder, model.pool)
    assert stepper is not None
    steps = NativeSteps(stepper, model.pool)
    found = Divergence.of(decoded(model, steps), decoded(model, None), answer=0)
    steps.release()
    assert 0 < found.kl <= MOST_KL
    assert found.top1 >= 0.9


def test_without_them_the_model_is_itself() -> None:
    config = EngineConfig(
        model=str(resolve_model("smollm2-135m")), device="cpu", kv_cache_tokens=64, quantized_decode=False
    )
    decoder = load_model(config).decoder
    assert isinstance(decoder, Decoder)
    assert not decoder.packed

"""Zero-copy re-positioning: a moved segment acts as if its keys had really been rotated, and no KV is touched."""

from __future__ import annotations

import sys
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import DynamicCache

from engine import Engine, SamplingParams
from engine.context import Context
from engine.repair import Repair
from engine.types import FidelityLabel
from tests.engine.oracle import assert_greedy, finish, oracle, recorded_logits
from tests.engine.test_parity import FILES, config
from tests.tiny_models import tiny_model

GREEDY = SamplingParams(max_tokens=6)


# Every kind of rotation: scaled or not, halves or neighbours, a part of a head, per layer, with windows and sinks
MOVED = ["llama", "qwen3", "gemma3", "gpt-oss", "phi3-partial", "cohere2", "glm4", "llama-yarn", "mistral-sliding"]


def piece_lengths(context: Context) -> list[int]:
    """Tokens of the head and of each active chunk."""
    return [len(piece.tokens) for piece in context._manager.composition().pieces]


def rotated(keys: Tensor, model: Any, layer: int, offset: int) -> Tensor:
    """Keys [1, heads, n, dim] of a layer, rotated on by `offset` positions by the model's own functions."""
    kinds = getattr(model.config, "layer_types", None) if model.config.model_type.startswith("gemma3") else None
    cos, sin = model.model.rotary_emb(keys, torch.tensor([[offset]]), *([kinds[layer]] if kinds else []))
    apply = sys.modules[type(model).__module__].apply_rotary_pos_emb
    turned: Tensor = apply(keys, keys, cos, sin)[0]
    # YaRN's factor is in the keys already
    return turned / getattr(model.model.rotary_emb, "attention_scaling", 1.0)


@pytest.mark.parametrize("family", MOVED)
def test_a_moved_segment_gives_transformers_logits_over_hand_built_kv(family: str) -> None:
    folder = tiny_model(family)
    model = oracle(folder).model
    with Engine(config(folder, refine=False), repair=Repair(share=0)) as engine:
        context = engine.context()
        for source, text in FILES.items():
            context.add_chunk(text, source=source)
        context.populate()
        assert context.wait_populated(60)
        head, a, b, c = piece_lengths(context)
        whole = context.prompt_tokens("What is read once?")
        context.deactivate("a.py")
        ids = context.prompt_tokens("What is read once?")
        with recorded_logits(engine, GREEDY) as recorded:
            done = finish(context.chat("What is read once?", GREEDY, fidelity="instant"))
        assert [chunk.fidelity for chunk in done.chunks] == [FidelityLabel.NEAR] * 2
        assert [chunk.prefill for chunk in done.chunks] == [0, 0]

    with torch.inference_mode():
        # caches without a config keep all keys of sliding layers, too
        computed, built = DynamicCache(), DynamicCache()
        model(torch.tensor([whole[: head + a + b + c]]), past_key_values=computed, use_cache=True)
        turns = [spec.rotary is not None for spec in engine._state.model.decoder.layers]
        for index, layer in enumerate(computed.layers):
            moved = layer.keys[:, :, head + a :]
            moved = rotated(moved, model, index, -a) if turns[index] else moved
            keys = torch.cat([layer.keys[:, :, :head], moved], 2)
            values = torch.cat([layer.values[:, :, :head], layer.values[:, :, head + a :]], 2)
            built.update(keys, values, index)
        step, expected = torch.tensor([ids[head + b + c :]]), []
        for _ in range(GREEDY.max_tokens or 0):
            expected.append(model(step, past_key_values=built, use_cache=True).logits[0, -1])
            step = expected[-1].argmax()[None, None]
    torch.testing.assert_close(torch.stack(recorded), torch.stack(expected), atol=1e-3, rtol=0)


@pytest.mark.parametrize("family", ["llama-dynamic", "gpt2", "lfm2"])
def test_kv_that_can_not_be_moved_is_never_used_elsewhere(family: str) -> None:
    folder = tiny_model(family)
    with Engine(config(folder, refine=False)) as engine:
        assert (engine.exact_only or "").startswith("Every question to this model is answered as exact: it")
        context = engine.context()
        for source, text in FILES.items():
            context.add_chunk(text, source=source)
        context.populate()
        assert context.wait_populated(60)
        context.deactivate("a.py")
        ids = context.prompt_tokens("What is read once?")
        with recorded_logits(engine, GREEDY) as recorded:
            done = finish(context.chat("What is read once?", GREEDY, fidelity="instant"))
        assert {chunk.fidelity for chunk in done.chunks} == {FidelityLabel.EXACT}
    tokens, logits = oracle(folder).greedy(ids, len(recorded))
    assert_greedy(recorded, tokens, logits)


def test_switching_reordering_and_composing_move_no_kv() -> None:
    with Engine(config(tiny_model("llama"), refine=False), repair=Repair(share=0)) as engine:
        context = engine.context()
        for source, text in FILES.items():
            context.add_chunk(text, source=source)
        context.populate()
        assert context.wait_populated(60)
        written = engine.stats().kv_tokens_written
        context.deactivate("a.py")
        context.move("c.py", 0)
        context.compose(["b.md", "c.py"], "both")
        context.activate("a.py")
        context.tag("a.py", "first")
        assert engine.stats().kv_tokens_written == written
        done = finish(context.chat("Who?", SamplingParams(max_tokens=1), fidelity="instant", budget=0.0))
        tail = done.usage.prompt_tokens - sum(piece_lengths(context))
        assert engine.stats().kv_tokens_written == written + tail
        engine.check_integrity()

"""The decoder against transformers' own models (eager attention), on small random models of every family it takes."""

from __future__ import annotations

import dataclasses
import functools
from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedModel

from engine.models import catalogue, gguf
from engine.models.decoder import Decoder
from engine.models.language_model import Attend
from engine.models.linear import NARROW_ROWS
from engine.models.loading import load_decoder
from engine.models.resolve import resolve_model
from tests.tiny_models import NATIVE, tiny_model

CPU = torch.device("cpu")


def full_attention(decoder: Decoder) -> Attend:
    """Attention among the tokens of one pass, from position 0 on, written as its definition."""

    def attend(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        spec, positions = decoder.layers[layer], torch.arange(len(q))
        if spec.rotary is not None:
            q, k = (decoder.rotary[spec.rotary].rotate(x, positions) for x in (q, k))
        k, v = (x.repeat_interleave(q.shape[1] // x.shape[1], 1) for x in (k, v))
        behind = positions[:, None] - positions
        hidden = (behind < 0) | (behind >= (spec.window or len(q)))
        scores = torch.einsum("qhd,khd->hqk", q, k) * spec.scale
        weights = scores.masked_fill(hidden, float("-inf")).softmax(-1, dtype=torch.float32).to(q.dtype)
        return torch.einsum("hqk,khd->qhd", weights, v)

    return attend


def logits_of(decoder: Decoder, ids: Tensor) -> Tensor:
    with torch.inference_mode():
        return decoder.logits(decoder.forward(ids, torch.arange(len(ids)), full_attention(decoder)))


def transformers_logits(model: PreTrainedModel, ids: Tensor) -> Tensor:
    with torch.inference_mode():
        logits: Tensor = model(ids[None], use_cache=False).logits[0].float()
    return logits


@functools.cache
def pair(folder: Path, dtype: torch.dtype = torch.float32) -> tuple[Decoder, PreTrainedModel]:
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, attn_implementation="eager")
    return load_decoder(folder, device=CPU, dtype=dtype), model


def random_ids(count: int, vocab: int = 400) -> Tensor:
    return torch.randint(vocab, (count,), generator=torch.Generator().manual_seed(count))


@pytest.mark.parametrize("count", [1, 2, NARROW_ROWS, NARROW_ROWS + 1, 150])
@pytest.mark.parametrize("family", NATIVE)
def test_logits_are_those_of_transformers(family, count):
    decoder, model = pair(tiny_model(family))
    ids = random_ids(count)
    ours = logits_of(decoder, ids)
    assert ours.dtype == torch.float32
    torch.testing.assert_close(ours, transformers_logits(model, ids), atol=1e-4, rtol=0)


@pytest.mark.parametrize("family", NATIVE)
def test_greedy_continuation_is_that_of_transformers(family):
    decoder, model = pair(tiny_model(family))
    prompt, ids = random_ids(30), random_ids(30)
    for _ in range(12):
        ids = torch.cat((ids, logits_of(decoder, ids)[-1:].argmax(-1)))
    expected = model.generate(prompt[None], max_new_tokens=12, do_sample=False, attention_mask=torch.ones(1, 30))[0]
    assert ids.tolist() == expected.tolist()


@pytest.mark.parametrize("family", NATIVE)
def test_bfloat16_is_as_near_to_float32_as_that_of_transformers(family):
    ids = random_ids(80)
    exact = transformers_logits(pair(tiny_model(family))[1], ids)
    decoder, model = pair(tiny_model(family), torch.bfloat16)
    theirs = (transformers_logits(model, ids) - exact).abs().mean()
    assert (logits_of(decoder, ids) - exact).abs().mean() < 1.25 * theirs
    assert (logits_of(decoder, ids) - transformers_logits(model, ids)).abs().mean() < 2 * theirs


@pytest.mark.parametrize(
    ("family", "plain"),
    [
        ("mistral-sliding", {"window": None}),
        ("qwen2-sliding", {"window": None}),
        ("smollm3", {"rotary": 0}),
        ("llama", {"rotary": None}),
    ],
)
def test_each_layer_feature_shows_in_the_logits(family, plain):
    """Guards the tests above: on a model where windows or RoPE hardly matter they would prove little."""
    decoder, model = pair(tiny_model(family))
    layers = tuple(dataclasses.replace(spec, **plain) for spec in decoder.layers)
    without = Decoder(dataclasses.replace(decoder.config, layers=layers), decoder.weights)
    ids = random_ids(80)
    assert (logits_of(without, ids) - transformers_logits(model, ids)).abs().max() > 0.1


def test_windows_and_nope_layers_are_those_of_the_config():
    def specs(family: str) -> list[tuple[bool, int | None]]:
        return [(spec.rotary is not None, spec.window) for spec in pair(tiny_model(family))[0].layers]

    assert specs("llama") == [(True, None)] * 3
    assert specs("mistral-sliding") == [(True, 24)] * 3
    assert specs("qwen2-sliding") == [(True, None), (True, 24), (True, 24)]
    assert specs("smollm3") == [(True, None), (False, None)] * 2


def test_attention_is_called_once_per_layer_with_heads_apart():
    decoder, _ = pair(tiny_model("qwen3"))
    calls = []

    def attend(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        calls.append((layer, tuple(q.shape), tuple(k.shape), tuple(v.shape)))
        return q

    with torch.inference_mode():
        hidden = decoder.forward(random_ids(5), torch.arange(5), attend)
    assert hidden.shape == (5, decoder.config.hidden_size)
    assert calls == [(layer, (5, 4, 32), (5, 2, 32), (5, 2, 32)) for layer in range(3)]


class Recording:
    """Keeps what it is handed in the last layer."""

    def __init__(self, decoder: Decoder) -> None:
        self.attend = full_attention(decoder)
        self.last = len(decoder.layers) - 1
        self.kept: list[Tensor] = []

    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        if layer == self.last:
            self.kept = [k.clone(), v.clone()]
        return self.attend(layer, q, k, v)

    def keep(self, layer: int, k: Tensor, v: Tensor) -> None:
        assert layer == self.last
        self.kept = [k.clone(), v.clone()]


@pytest.mark.parametrize("family", NATIVE)
def test_filling_keeps_what_a_pass_attends_to_in_the_last_layer(family: str):
    decoder, _ = pair(tiny_model(family))
    ids, places = random_ids(9), torch.arange(9)
    passing, filling = Recording(decoder), Recording(decoder)
    with torch.inference_mode():
        decoder.forward(ids, places, passing)
        decoder.fill(ids, places, filling)
    for kept, expected in zip(filling.kept, passing.kept, strict=True):
        torch.testing.assert_close(kept, expected)


def test_tied_embeddings_are_held_once():
    assert (tied := pair(tiny_model("qwen2"))[0]).config.tied_embeddings
    assert tied.weights.head is tied.weights.embedding
    untied = pair(tiny_model("llama"))[0]
    assert not torch.equal(untied.weights.head, untied.weights.embedding)


def test_end_tokens_are_those_of_the_generation_config_too():
    decoder, model = pair(tiny_model("llama"))
    assert set(decoder.config.eos_token_ids) == set(model.generation_config.eos_token_id)
    assert len(decoder.config.eos_token_ids) == 2


def test_real_smollm2_agrees_with_transformers():
    entry = catalogue.find("smollm2-135m")
    assert entry is not None
    if not gguf.is_converted(catalogue.model_file(entry)):
        pytest.skip("smollm2-135m is not in the cache")
    folder = resolve_model("smollm2-135m")
    decoder = load_decoder(folder, device=CPU, dtype=torch.float32)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager")
    ids = random_ids(64, decoder.config.vocab_size)
    torch.testing.assert_close(logits_of(decoder, ids), transformers_logits(model, ids), atol=1e-3, rtol=0)

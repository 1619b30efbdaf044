"""The load-time proof: it passes what is right, and everything that is made wrong on purpose is seen."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from engine.errors import UnsupportedModelError
from engine.models.adapter import TransformersModel
from engine.models.adapter_loading import load_transformers_model
from engine.models.adapter_rotary import Source
from engine.models.adapter_tables import read_table
from engine.models.decoder import Decoder
from engine.models.load import load_language_model
from engine.models.loading import load_decoder
from engine.models.proof import agrees_with, check_moving
from engine.models.rotary import Pairing, RotaryTable
from tests.tiny_models import NATIVE, tiny_model

CPU = torch.device("cpu")


def load(family: str) -> TransformersModel:
    return load_transformers_model(tiny_model(family), device=CPU, dtype=torch.float32)


@pytest.mark.parametrize(
    ("family", "change"),
    [
        ("gemma3", {"window": None}),
        ("gemma3", {"window": 23}),
        ("gemma3", {"rotary": 0}),
        ("gemma2", {"softcap": None}),
        ("gpt-oss", {"sinks": None}),
        ("granite", {"scale": 0.25}),
        ("cohere2", {"rotary": 0}),
        ("phi3", {"rotary": None}),
    ],
)
def test_a_layer_that_attends_otherwise_does_not_agree_with_the_model(family, change):
    model = load(family)
    with torch.inference_mode():
        assert agrees_with(model, model.own_logits)
        model.layers = [dataclasses.replace(spec, **change) for spec in model.layers]
        assert not agrees_with(model, model.own_logits)


def read_wrongly(monkeypatch: pytest.MonkeyPatch, change: Callable[[Source, Pairing], tuple[Source, Pairing]]) -> None:
    """Let the adapter read its tables from another source, or for another pairing, than it found."""
    monkeypatch.setattr(
        "engine.models.adapter.read_table", lambda source, pairing, *rest: read_table(*change(source, pairing), *rest)
    )


@pytest.mark.parametrize("family", ["olmo2", "gpt-oss", "phi3-partial", "cohere"])
def test_a_wrong_sign_is_noticed_and_the_rotation_left_to_the_model(monkeypatch, family):
    def backwards(source: Source, pairing: Pairing) -> tuple[Source, Pairing]:
        return source, dataclasses.replace(pairing, sign=tuple(-sign for sign in pairing.sign))

    read_wrongly(monkeypatch, backwards)
    assert_left_to_the_model(load(family))


def test_neighbours_taken_for_halves_are_noticed(monkeypatch):
    """Cohere turns dims 0 and 1 by its first column, 2 and 3 by the next; its columns come in pairs, too."""

    def halves(source: Source, pairing: Pairing) -> tuple[Source, Pairing]:
        columns = tuple(range(0, len(pairing.partner), 2))
        return source, dataclasses.replace(Pairing.halves(len(pairing.partner)), column=columns * 2)

    read_wrongly(monkeypatch, halves)
    assert_left_to_the_model(load("cohere"))


def test_tables_of_the_wrong_layers_are_noticed(monkeypatch):
    other = {"sliding_attention": "full_attention", "full_attention": "sliding_attention"}

    def swapped(source: Source, pairing: Pairing) -> tuple[Source, Pairing]:
        *tensors, kind = source.args
        return dataclasses.replace(source, args=(*tensors, other[kind])), pairing

    read_wrongly(monkeypatch, swapped)
    assert_left_to_the_model(load("gemma3"))


def assert_left_to_the_model(model: TransformersModel) -> None:
    assert model.exact_only is not None
    assert not model.rotary
    with torch.inference_mode():
        assert agrees_with(model, model.own_logits)


def test_a_model_that_agrees_in_no_way_is_refused(monkeypatch):
    monkeypatch.setattr(TransformersModel, "own_logits", lambda self, ids: torch.randn(len(ids), self.vocab_size))
    with pytest.raises(UnsupportedModelError, match="its own attention"):
        load("olmo2")


# -- moving ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", NATIVE)
def test_native_models_may_be_moved(family):
    model, _ = load_language_model(tiny_model(family), device=CPU, dtype=torch.float32)
    assert model.exact_only is None


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("sabotage", ["accelerating", "longer is slower"])
def test_a_rotation_that_is_not_steady_is_noticed(sabotage, dtype):
    decoder = load_decoder(tiny_model("llama"), device=CPU, dtype=dtype)
    with torch.inference_mode():
        assert check_moving(decoder) is None
        decoder.rotary = (unsteady(decoder, sabotage),)
        assert "did not hold" in (check_moving(decoder) or "")


def unsteady(decoder: Decoder, sabotage: str) -> RotaryTable:
    positions = torch.arange(8192, dtype=torch.float32)[:, None]
    inverse: Tensor = torch.tensor(decoder.config.rope.inverse)
    if sabotage == "accelerating":
        angles = positions * inverse * (1 + positions / 1000)
    else:  # as dynamic NTK: from some length on, all turns slower
        angles = positions * torch.where(positions < 500, inverse, inverse * 0.5)
    return RotaryTable(angles.cos(), angles.sin(), Pairing.halves(len(inverse) * 2))


def test_learned_positions_are_noticed_without_looking_for_them():
    """GPT-2 is found out when it is probed; the trial alone has to see it too."""
    model = load("gpt2")
    with torch.inference_mode():
        assert check_moving(model) is not None

"""RoPE against transformers' own functions, and the property that re-positioning rests on."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoConfig
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding, apply_rotary_pos_emb

from engine.errors import UnsupportedModelError
from engine.models.rotary import Pairing, RopeFrequencies, RotaryTable, rotate_by_each
from tests.tiny_models import MAX_POSITION, tiny_model

CPU = torch.device("cpu")
KINDS = ["llama", "llama-llama3", "llama-yarn", "llama-linear"]


def table_of(family: str) -> RotaryTable:
    config = AutoConfig.from_pretrained(tiny_model(family))
    return RotaryTable.of(RopeFrequencies.from_transformers(config), MAX_POSITION, CPU)


@pytest.mark.parametrize("family", KINDS)
def test_rotation_is_that_of_transformers(family):
    table, config = table_of(family), AutoConfig.from_pretrained(tiny_model(family))
    random = torch.Generator().manual_seed(0)
    q, k = torch.randn(50, 4, 16, generator=random), torch.randn(50, 2, 16, generator=random)
    positions = torch.randint(MAX_POSITION, (50,), generator=random)
    cos, sin = LlamaRotaryEmbedding(config)(q, positions[None])
    expected = apply_rotary_pos_emb(q.transpose(0, 1)[None], k.transpose(0, 1)[None], cos, sin)
    for ours, theirs in zip((table.rotate(q, positions), table.rotate(k, positions)), expected, strict=True):
        torch.testing.assert_close(ours, theirs[0].transpose(0, 1), atol=1e-6, rtol=1e-6)


def test_each_scaling_type_turns_differently():
    tables = [table_of(family).sin for family in KINDS]
    for index, one in enumerate(tables):
        assert not any(torch.allclose(one, other) for other in tables[index + 1 :])


@pytest.mark.parametrize("family", KINDS)
@settings(max_examples=50, deadline=None)
@given(data=st.data())
def test_scores_depend_on_the_distance_alone(family, data):
    """⟨R(p)q, R(s + Δ)k⟩ = ⟨R(p - Δ)q, R(s)k⟩: the key stays as it is, the query is rotated less."""
    table = table_of(family)
    start, later, shift = (data.draw(st.integers(0, MAX_POSITION // 4)) for _ in range(3))
    random = torch.Generator().manual_seed(start)
    q, k = torch.randn(1, 1, 16, generator=random), torch.randn(1, 1, 16, generator=random)

    def rotated(x: torch.Tensor, position: int) -> torch.Tensor:
        return table.rotate(x, torch.tensor([position])).flatten()

    moved = rotated(q, start + shift + later) @ rotated(k, start + shift)
    resting = rotated(q, start + later) @ rotated(k, start)
    torch.testing.assert_close(moved, resting, atol=5e-3, rtol=0)


def test_half_precision_is_rotated_in_float32():
    table, positions = table_of("llama"), torch.arange(3000, 3020)
    x = torch.randn(20, 2, 16, generator=torch.Generator().manual_seed(1)).bfloat16()
    assert torch.equal(table.rotate(x, positions), table.rotate(x.float(), positions).bfloat16())


def test_rows_gathered_once_serve_queries_and_keys():
    table, positions = table_of("llama-yarn"), torch.tensor([5, 0, 4095])
    x = torch.randn(3, 2, 16, generator=torch.Generator().manual_seed(2))
    assert torch.equal(table.at(positions).apply(x), table.rotate(x, positions))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("halves", [True, False])
def test_rotating_by_many_is_rotating_by_each(halves, dtype):
    pairing = (
        Pairing.halves(8)
        if halves
        else Pairing((0, 0, 1, 1, 2, 2, None, None), (1, 0, 3, 2, 5, 4, 7, 6), (-1, 1) * 3 + (0, 0))
    )
    angles = torch.rand(40, 4 if halves else 3)
    table = RotaryTable(angles.cos(), angles.sin(), pairing)
    x = torch.randn(5, 3, 16)[..., ::2].to(dtype)
    rotations = table.at(torch.randint(40, (15,))).split(3)
    for turned, rotation in zip(rotate_by_each(x, rotations), rotations, strict=True):
        assert turned.is_contiguous()
        torch.testing.assert_close(turned, rotation.apply(x).transpose(0, 1), atol=0, rtol=0)


@pytest.mark.parametrize("position", [-1, MAX_POSITION])
def test_positions_outside_the_table_are_refused(position):
    with pytest.raises(IndexError):
        table_of("llama").at(torch.tensor([position]))


@pytest.mark.parametrize(
    ("parameters", "words"),
    [
        ({"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 2.0}, "dynamic"),
        (
            {
                "rope_type": "longrope",
                "rope_theta": 10000.0,
                "factor": 2.0,
                "short_factor": [1.0] * 8,
                "long_factor": [2.0] * 8,
                "original_max_position_embeddings": 1024,
            },
            "longrope",
        ),
        ({"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.5}, "part of each head"),
    ],
)
def test_rotations_that_depend_on_length_or_leave_dims_out_are_refused(parameters, words):
    config = AutoConfig.for_model("llama", hidden_size=64, num_attention_heads=4, rope_parameters=parameters)
    with pytest.raises(UnsupportedModelError, match=words):
        RopeFrequencies.from_transformers(config)

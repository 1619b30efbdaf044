"""Attention of many queries in C against its definition, and the backend that is made of it against plain attention."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from engine.attention.joined_rows import in_groups
from engine.attention.native_attention import NativeAttention
from engine.native.library import levels, load_level
from engine.native.many import SPAN, Cache, Many, Seen, find_many, make_many
from tests.engine.attention_bench import (
    Bench,
    Trial,
    _rows_of_one_sequence,
    assert_a_step_sees_its_earlier_rows,
    assert_new_kv_is_written,
    assert_read_is_right,
    assert_read_of_a_steps_earlier_rows_is_right,
    assert_rows_are_right,
)

TURNS = 3
KINDS = [
    pytest.param((level, dtype), id=f"{level} {dtype}".replace("torch.", ""))
    for level in levels()
    for dtype in (torch.float32, torch.bfloat16)
    if "avx" in level and (dtype == torch.float32 or level.endswith("bf16"))
]
"""The libraries that this processor can run, with the dtypes each can attend to."""


def make(level: str, threads: int) -> Many:
    library = load_level(level)
    assert library is not None, f"engine/native has no library for {level}"
    found = make_many(library, threads)
    if found is None:
        pytest.skip("needs OpenMP")
    return found


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> tuple[str, torch.dtype]:
    found: tuple[str, torch.dtype] = request.param
    return found


@pytest.fixture
def dtype(kind: tuple[str, torch.dtype]) -> torch.dtype:
    return kind[1]


@pytest.fixture(params=[1, 3], ids=["one thread", "three threads"])
def many(request: pytest.FixtureRequest, kind: tuple[str, torch.dtype]) -> Many:
    return make(kind[0], request.param)


@dataclass
class Case:
    """Some tokens behind others, in runs of these lengths with gaps between them that are no numbers."""

    lengths: list[int]
    tokens: int
    heads: int
    kv_heads: int
    head_dim: int
    dtype: torch.dtype
    window: int | None = None
    pieces: int = 0

    def __post_init__(self) -> None:
        torch.manual_seed(sum(self.lengths) + self.tokens)
        self.pool = torch.full((2, self.kv_heads, 2000, self.head_dim), float("nan"), dtype=self.dtype)
        self.spans = np.empty(len(self.lengths), dtype=SPAN)
        slot, start = 5, 0
        for index, length in enumerate(self.lengths):
            self.pool[:, :, slot : slot + length] = torch.randn(2, self.kv_heads, length, self.head_dim)
            piece = index // 2 if index // 2 < self.pieces else -1
            self.spans[index] = (slot, length, start, index % TURNS, piece)
            slot, start = slot + length + 20, start + length
        self.position = start - self.tokens
        self.qkv = torch.randn(self.tokens, self.heads + 3, self.head_dim).to(self.dtype)
        self.turned = (torch.randn(TURNS, self.tokens, self.head_dim), torch.randn(TURNS, self.tokens, self.head_dim))

    def check(self, many: Many) -> None:
        q = self.qkv[:, : self.heads]
        partners = q.roll(1, -1)
        mixed = torch.empty(self.tokens, self.heads, self.head_dim, dtype=self.dtype)
        cache = Cache(self.pool[0], self.pool[1], self.head_dim**-0.5, self.window)
        seen = Seen(self.position, self.spans, self.turned, self.pieces)
        shares = many.attend(cache, seen, q, partners, mixed)
        expected, weights = self.expected(q, partners)
        exact = self.dtype == torch.float32
        atol, rtol = (2e-5, 2e-5) if exact else (2e-2, 2e-2)
        torch.testing.assert_close(mixed.float(), expected, atol=atol, rtol=rtol)
        piece = torch.from_numpy(np.repeat(self.spans["piece"], self.spans["length"]))
        for number in range(self.pieces):
            atol, rtol = (2e-6, 2e-5) if exact else (2e-3, 1e-2)
            share = weights[..., piece == number].sum(-1)
            torch.testing.assert_close(shares[number], share, atol=atol, rtol=rtol)

    def expected(self, q: Tensor, partners: Tensor) -> tuple[Tensor, Tensor]:
        """Attention [T, heads, head_dim] and its weights [heads, T, keys], in float32 but for the turned queries."""
        cos, sin = (part[:, :, None] for part in self.turned)
        copies = (q.float() * cos + partners.float() * sin).to(self.dtype).float()
        places = np.concatenate([np.arange(span["slot"], span["slot"] + span["length"]) for span in self.spans])
        keys, values = self.pool[:, :, places].float().repeat_interleave(self.heads // self.kv_heads, 1)
        turn = torch.from_numpy(np.repeat(self.spans["turn"], self.spans["length"])).long()
        scores = torch.einsum("cthd,hkd->chtk", copies, keys) * self.head_dim**-0.5
        scores = scores.gather(0, turn.expand(1, *scores.shape[1:]))[0]
        behind = torch.arange(self.position, self.position + self.tokens)[:, None] - torch.arange(len(places))
        hidden = (behind < 0) | (behind >= (self.window or len(places)))
        weights = scores.masked_fill(hidden, float("-inf")).softmax(-1)
        return (weights @ values).transpose(0, 1), weights


@pytest.mark.parametrize("lengths", [[1], [64], [63, 2], [300, 1, 129, 7]])
@pytest.mark.parametrize("head_dim", [64, 128])
@pytest.mark.parametrize(("heads", "kv_heads", "tokens"), [(6, 2, 100), (7, 1, 17), (4, 4, 250), (3, 1, 1)])
def test_it_agrees_with_the_definition(
    many: Many, dtype: torch.dtype, lengths: list[int], head_dim: int, heads: int, kv_heads: int, tokens: int
) -> None:
    Case([*lengths, tokens], tokens, heads, kv_heads, head_dim, dtype).check(many)


@settings(max_examples=150, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 150), min_size=1, max_size=8),
    new=st.integers(1, 200),
    window=st.none() | st.integers(1, 300),
    pieces=st.integers(0, 6),
    heads=st.sampled_from([(1, 1), (6, 2), (3, 1)]),
    kind=st.sampled_from([param.values[0] for param in KINDS]),
)
def test_it_does_wherever_runs_pieces_and_windows_end(
    lengths: list[int],
    new: int,
    window: int | None,
    pieces: int,
    heads: tuple[int, int],
    kind: tuple[str, torch.dtype],
) -> None:
    """The new tokens may lie in several runs, and begin in the middle of one."""
    level, dtype = kind
    Case(lengths, min(new, sum(lengths)), *heads, 64, dtype, window, pieces).check(make(level, 2))


@pytest.mark.parametrize("window", [None, 20, 64])
@pytest.mark.parametrize("rope", [True, False])
def test_the_backend_is_right(many: Many, dtype: torch.dtype, window: int | None, rope: bool) -> None:
    trial = Trial(partial(NativeAttention, many=many), dtype, head_dim=64, seeds=8)
    spec = trial.layer(window=window, rope=rope)
    assert_rows_are_right(spec, trial)
    assert_read_is_right(spec, trial)
    assert_a_step_sees_its_earlier_rows(spec, trial)
    assert_read_of_a_steps_earlier_rows_is_right(spec, trial)
    assert_new_kv_is_written(spec, trial)


def test_rows_that_are_attended_to_together_note_their_own_pieces(many: Many, dtype: torch.dtype) -> None:
    """One wants to know of an empty piece where it begins itself, and the last one of none."""
    trial = Trial(partial(NativeAttention, many=many), dtype, head_dim=64)
    bench = Bench(trial.layer(), trial, seed=5)
    earlier, rows = _rows_of_one_sequence(bench, noted=True)
    rows[1] = replace(rows[1], pieces=(*rows[1].pieces, rows[1].table.tokens))
    rows[2] = replace(rows[2], pieces=())
    assert len(in_groups(rows)) == 1
    q, (k, v) = bench.queries(16), bench.kv(16)
    bench.assert_close(bench.step(rows, q, k, v), bench.expected([earlier], q, k, v))
    weights = bench.weights([earlier], q, k).mean(0)
    first, second, third = bench.backend.read()
    assert first is not None
    assert second is not None
    assert third is None
    np.testing.assert_allclose(first, weights[:3, :9].sum(-1)[None], atol=1e-2)
    in_pieces = [weights[3:14, :9].sum(-1), weights[3:14, 9:12].sum(-1), torch.zeros(11)]
    np.testing.assert_allclose(second, torch.stack(in_pieces), atol=1e-2)


def test_it_is_for_some_dtypes_and_heads_alone() -> None:
    assert find_many(torch.float16, {64}) is None
    assert find_many(torch.bfloat16, {64, 80}) is None
    assert find_many(torch.float32, {64, 80}) is None

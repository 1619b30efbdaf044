"""Sampler: filters against a naive twin, the penalty against transformers, draws that depend on the seed alone."""

from __future__ import annotations

import math
from collections import Counter

import pytest
import torch
from hypothesis import assume, example, given
from hypothesis import strategies as st
from torch import Tensor
from transformers import RepetitionPenaltyLogitsProcessor

from engine.config import SamplingParams
from engine.runtime import sampler
from engine.runtime.sampler import Sampler, SamplingState, draw, kept

Logits = list[float]

logit_rows = st.lists(st.floats(-30, 30, width=32), min_size=1, max_size=40)
filters = st.fixed_dictionaries(
    {
        "temperature": st.floats(0.05, 5),
        "top_k": st.integers(0, 45),
        "top_p": st.floats(0.01, 1),
        "min_p": st.floats(0, 1),
    }
)


def naive_support(logits: Logits, temperature: float, top_k: int, top_p: float, min_p: float) -> tuple[set[int], bool]:
    """Tokens kept by top-k, top-p, min-p in this order, ties kept together; and whether rounding could decide."""
    weights = [math.exp((logit - max(logits)) / temperature) for logit in logits]
    keep = set(range(len(logits)))
    close = False
    if 0 < top_k < len(logits):
        floor = sorted(weights)[-top_k]
        keep = {token for token in keep if weights[token] >= floor}
    if top_p < 1:
        total = math.fsum(weights[token] for token in keep)
        reached = 0.0
        for token in sorted(keep, key=lambda token: -weights[token]):
            reached += weights[token] / total
            floor = weights[token]
            close |= abs(reached - top_p) < 1e-5
            if reached >= top_p:
                break
        keep = {token for token in keep if weights[token] >= floor}
    close |= any(weight != 1 and abs(weight - min_p) < 1e-5 * max(weight, min_p) for weight in weights)
    return {token for token in keep if weights[token] >= min_p or weights[token] == 1}, close


@given(logits=logit_rows, chosen=filters)
@example(logits=[1.0, 1.0, 1.0, 0.0], chosen={"temperature": 1.0, "top_k": 2, "top_p": 1.0, "min_p": 0.0})
@example(logits=[0.0] * 10, chosen={"temperature": 1.0, "top_k": 0, "top_p": 0.35, "min_p": 1.0})
def test_what_is_kept_is_what_a_naive_twin_keeps(logits: Logits, chosen: dict[str, float]) -> None:
    expected, close = naive_support(logits, **chosen)  # type: ignore[arg-type]
    assume(not close)
    result = kept(torch.tensor(logits), SamplingParams(**chosen))  # type: ignore[arg-type]
    finite = {token for token, value in enumerate(result.tolist()) if value > -math.inf}
    # equal in float64 and in float32 are different things after the division
    assert finite == expected or _differ_by_rounding(logits, finite ^ expected, chosen["temperature"])


def _differ_by_rounding(logits: Logits, tokens: set[int], temperature: float) -> bool:
    """Every token in question is within float32 rounding of another, so that they tie in one precision only."""
    return all(
        any(other != token and abs(logits[other] - logits[token]) < 1e-4 * temperature for other in range(len(logits)))
        for token in tokens
    )


@given(logits=logit_rows, temperature=st.floats(0.05, 5))
def test_without_filters_the_distribution_is_the_softmax(logits: Logits, temperature: float) -> None:
    row = torch.tensor(logits)
    result = kept(row, SamplingParams(temperature=temperature)).softmax(0)
    torch.testing.assert_close(result, (row / temperature).softmax(0), rtol=1e-4, atol=1e-6)


@given(logits=logit_rows, chosen=filters)
def test_kept_tokens_keep_their_proportions_and_the_likeliest_stays(logits: Logits, chosen: dict[str, float]) -> None:
    row = torch.tensor(logits)
    result = kept(row, SamplingParams(**chosen))  # type: ignore[arg-type]
    stay = result > -math.inf
    expected = (row / chosen["temperature"]).masked_fill(~stay, -math.inf).softmax(0)
    torch.testing.assert_close(result.softmax(0), expected, rtol=1e-3, atol=1e-6)
    assert bool(stay[row.argmax()])


def test_a_flat_distribution_is_searched_beyond_the_likeliest() -> None:
    vocab = 4 * sampler._LIKELIEST
    row = torch.linspace(0, 0.001, vocab, dtype=torch.float64).float()
    count = int((kept(row, SamplingParams(temperature=1, top_p=0.75)) > -math.inf).sum())
    assert abs(count - 0.75 * vocab) < 0.01 * vocab


@given(rows=st.lists(logit_rows.filter(lambda row: len(row) > 3).map(lambda row: row[:4]), min_size=1, max_size=5))
def test_temperature_zero_is_the_argmax(rows: list[Logits]) -> None:
    logits = torch.tensor(rows)
    states = [SamplingState(SamplingParams(top_k=2, top_p=0.5, seed=index), [0]) for index in range(len(rows))]
    assert Sampler().sample(logits, states) == [[token] for token in logits.argmax(-1).tolist()]


@given(temperature=st.floats(min_value=0, max_value=1e-6, exclude_min=True), logits=logit_rows)
def test_the_coldest_temperatures_are_greedy(temperature: float, logits: Logits) -> None:
    row = torch.tensor(logits)
    state = SamplingState(SamplingParams(temperature=temperature, seed=1), [])
    ((token,),) = Sampler().sample(row[None], [state])
    assert row[token] >= row.max() - 1e-4


@given(
    logits=logit_rows,
    prompt=st.lists(st.integers(0, 39), max_size=30),
    answer=st.lists(st.integers(0, 39), max_size=10),
    penalty=st.floats(0.2, 5),
)
def test_the_penalty_is_that_of_transformers(
    logits: Logits, prompt: list[int], answer: list[int], penalty: float
) -> None:
    prompt = [token % len(logits) for token in prompt]
    answer = [token % len(logits) for token in answer]
    row = torch.tensor(logits)
    before = row.clone()
    state = SamplingState(SamplingParams(repetition_penalty=penalty), prompt)
    for token in answer:
        state.push(token)
    processor = RepetitionPenaltyLogitsProcessor(penalty)
    expected = processor(torch.tensor([prompt + answer], dtype=torch.long), row[None].clone())[0]
    assert torch.equal(state.penalize(row), expected)
    assert torch.equal(row, before)
    assert Sampler().sample(row[None], [state]) == [[int(expected.argmax())]]


def _answer(seed: int | None, length: int, fellows: int, logits: Tensor) -> list[int]:
    """What one row draws in a batch with `fellows` others around it."""
    params = SamplingParams(temperature=1.3, top_p=0.95, repetition_penalty=1.2, seed=seed)
    state = SamplingState(params, [1, 2])
    others = [SamplingState(SamplingParams(temperature=0.7, seed=100 + index), []) for index in range(fellows)]
    tokens = []
    for step in range(length):
        at = step % (fellows + 1)
        states = [*others[:at], state, *others[at:]]
        batch = torch.randn(len(states), logits.shape[1])
        batch[at] = logits[step]
        tokens += Sampler().sample(batch, states)[at]
    return tokens


def test_a_seed_repeats_the_answer_whatever_batch_it_runs_in() -> None:
    logits = torch.randn(30, 500, generator=torch.Generator().manual_seed(3)) * 2
    alone = _answer(7, 30, 0, logits)
    assert _answer(7, 30, 0, logits) == alone
    assert _answer(7, 30, 3, logits) == alone
    assert _answer(8, 30, 0, logits) != alone
    assert _answer(None, 30, 0, logits) != _answer(None, 30, 0, logits)


@pytest.mark.parametrize("seed", [0, -5, 2**64 + 3])
def test_any_integer_is_a_seed(seed: int) -> None:
    logits = torch.randn(5, 300)
    assert _answer(seed, 5, 0, logits) == _answer(seed, 5, 0, logits)


def test_draws_follow_the_distribution() -> None:
    """Chi-squared over 20 tokens: 19 degrees of freedom exceed 43.8 once in a thousand runs; the seed is fixed."""
    draws = 20_000
    logits = torch.randn(20, generator=torch.Generator().manual_seed(5))
    params = SamplingParams(temperature=0.8, seed=11)
    state = SamplingState(params, [])
    row = kept(logits, params)
    counts = Counter(int(draw(row, state.uniform())) for _ in range(draws))
    expected = [draws * share for share in row.double().softmax(0).tolist()]
    assert sum((counts[token] - mean) ** 2 / mean for token, mean in enumerate(expected)) < 43.8


@given(logits=logit_rows, uniform=st.floats(0, 1, exclude_max=True), chosen=filters)
@example(logits=[0.0, -30.0], uniform=1 - 2**-53, chosen={"temperature": 0.05, "top_k": 0, "top_p": 1.0, "min_p": 0.0})
def test_a_dropped_token_is_never_drawn(logits: Logits, uniform: float, chosen: dict[str, float]) -> None:
    result = kept(torch.tensor(logits), SamplingParams(**chosen))  # type: ignore[arg-type]
    token = int(draw(result, torch.tensor([uniform], dtype=torch.float64)))
    assert float(result.softmax(0)[token]) > 0


def test_no_rows_no_tokens() -> None:
    assert Sampler().sample(torch.empty(0, 10), []) == []


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_keeps_and_draws_as_the_cpu_does() -> None:
    logits = torch.randn(3, 150_000, generator=torch.Generator().manual_seed(2)) * 4
    params = SamplingParams(temperature=0.9, top_k=5000, top_p=0.9, min_p=0.001, repetition_penalty=1.3, seed=4)
    on_cpu, on_gpu = SamplingState(params, [1, 2]), SamplingState(params, [1, 2], "cuda")
    for row in logits:
        here, there = kept(on_cpu.penalize(row), params), kept(on_gpu.penalize(row.cuda()), params).cpu()
        assert int(((here > -math.inf) != (there > -math.inf)).sum()) <= 1, "rounding may decide over one token"
        uniform = on_cpu.uniform()
        assert int(draw(here, uniform)) == int(draw(here.cuda(), uniform.cuda()))
    states = [SamplingState(params, [1, 2], "cuda") for _ in range(2)]
    first, second = (Sampler().sample(logits[:1].cuda(), [state]) for state in states)
    assert first == second

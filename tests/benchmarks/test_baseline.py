"""The transformers peer computes only what follows the common prefix, and still says what a cold run would say."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM

from benchmarks.baseline import PrefixCachedModel, common_prefix
from benchmarks.corpus import SourceFile
from benchmarks.steps import expected_labels
from engine.types import FidelityLabel
from tests.engine.oracle import oracle
from tests.tiny_models import tiny_model

PROMPTS = st.lists(st.lists(st.integers(3, 5), min_size=1, max_size=12), min_size=1, max_size=4)


@settings(max_examples=25)
@given(PROMPTS)
def test_it_says_what_a_cold_run_says(prompts: list[list[int]]) -> None:
    folder = tiny_model("qwen2")
    model = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="sdpa", local_files_only=True).eval()
    peer = PrefixCachedModel(model, torch.device("cpu"))
    before: list[int] = []
    for ids in prompts:
        token = peer.first_token(ids)
        logits = oracle(folder).logits(ids)[-1]
        torch.testing.assert_close(peer.logits, logits, atol=1e-4, rtol=0)
        assert token == int(logits.argmax())
        assert peer.reused == min(common_prefix(before, ids), len(ids) - 1)
        assert peer.computed + peer.reused == len(ids)
        following = peer.next_token(token)
        assert following == int(oracle(folder).logits([*ids, token])[-1].argmax())
        before = [*ids, token]
    peer.reset()
    assert peer.first_token(prompts[0]) == int(oracle(folder).logits(prompts[0])[-1].argmax())
    assert peer.reused == 0


def test_the_common_prefix() -> None:
    assert common_prefix([], [1]) == 0
    assert common_prefix([1, 2, 3], [1, 2, 4, 5]) == 2
    assert common_prefix([1, 2], [1, 2, 3]) == 2


def test_what_labels_instant_answers_must_have() -> None:
    a, b, c, d = (SourceFile(name, name) for name in "abcd")
    exact, near, anchored = FidelityLabel.EXACT, FidelityLabel.NEAR, FidelityLabel.ANCHORED
    compositions = [(a, b), (b, a), (a, b), (b, c), (d, c), (c, d)]
    labels = expected_labels(compositions, [True] * len(compositions))
    assert labels == [
        {"a": exact, "b": exact},
        {"b": near, "a": anchored},  # b's KV has seen a; a's has seen nothing
        {"a": exact, "b": exact},  # as at first: their KV is still there
        {"b": near, "c": near},  # c is computed on top of KV that isn't exact
        {"d": exact, "c": near},
        {"c": near, "d": anchored},
    ]


def test_an_exact_answer_leaves_exact_kv_behind() -> None:
    a, b = (SourceFile(name, name) for name in "ab")
    changed = SourceFile("a", "changed")
    exact, near = FidelityLabel.EXACT, FidelityLabel.NEAR
    compositions = [(a, b), (changed, b), (changed, b), (changed, b)]
    assert expected_labels(compositions, [True, True, False, True]) == [
        {"a": exact, "b": exact},
        {"a": near, "b": near},  # what the change has left alone of a is used as it is
        {"a": exact, "b": exact},
        {"a": exact, "b": exact},
    ]

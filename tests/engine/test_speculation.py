"""Drafts change how many steps an answer takes and nothing else: not its text, not its KV, not its end."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor

from engine import Engine, SamplingParams
from engine.errors import EngineError
from engine.hashing import TokenArray, token_array
from engine.kv.block_manager import BlockManager
from engine.kv.segment_store import SegmentStore
from engine.runtime import sampler
from engine.runtime.draft import Drafter
from engine.runtime.ledger import Ledger
from engine.runtime.speculation import Speculation
from engine.types import ChatDone
from tests.engine.oracle import finish
from tests.engine.test_parity import FILES, config
from tests.engine.test_runtime import held_worker, watched_steps
from tests.scripted_models import make_scripted_model
from tests.tiny_models import STATEFUL, tiny_model

FOLDER = tiny_model("llama")
SCRIPT = "def: int -> stop\tX 1234567890[QRST]"


class AlwaysWorthIt(Ledger):
    """Lets every draft be verified."""

    def affordable(self, answers: int, most: int) -> int:
        return most


def eager(engine: Engine) -> Engine:
    """The engine, with drafts from the first token on."""
    assert engine._speculation is not None
    engine._speculation._ledger = AlwaysWorthIt()
    return engine


@pytest.fixture(scope="module")
def plain() -> Iterator[Engine]:
    with Engine(config(FOLDER, speculation=False)) as engine:
        yield engine


@pytest.fixture(scope="module")
def drafting() -> Iterator[Engine]:
    with Engine(config(FOLDER, block_size=16)) as engine:
        yield eager(engine)
        engine.check_integrity()


@pytest.fixture(scope="module")
def scripted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    """Says `SCRIPT` whatever it is asked."""
    folder: Path = tmp_path_factory.mktemp("scripted")
    make_scripted_model(folder, SCRIPT)
    with Engine(config(folder)) as engine:
        yield eager(engine)
        engine.check_integrity()


def ask(engine: Engine, text: str, params: SamplingParams) -> ChatDone:
    return finish(engine.chat([{"role": "user", "content": text}], params))


def said(engine: Engine, text: str, params: SamplingParams) -> tuple[ChatDone, list[int]]:
    """An answer and its tokens."""
    with watched_tokens(engine) as tokens:
        return ask(engine, text, params), tokens


@contextmanager
def watched_tokens(engine: Engine) -> Iterator[list[int]]:
    """All that is sampled while the block runs."""
    sampling, tokens = engine._worker._sampler, list[int]()
    original = sampling.sample

    def sample(*arguments: Any) -> list[list[int]]:
        sampled = original(*arguments)
        tokens.extend(itertools.chain(*sampled))
        return sampled

    with patch.object(sampling, "sample", sample):
        yield tokens


@contextmanager
def closest_calls() -> Iterator[list[float]]:
    """How near each random number was to another token's, and each nucleus to one token more or less.

    Logits differ in their last digits with how many are computed at once, so nothing can be said of the closest calls.
    """
    margins = list[float]()
    draw, nucleus = sampler.draw, sampler._nucleus_floor

    def draw_and_note(logits: Tensor, uniform: Tensor) -> Tensor:
        reached = logits.softmax(dim=0).cumsum(dim=0, dtype=torch.float64)
        margins.append(float((reached - uniform * reached[-1]).abs().min()))
        return draw(logits, uniform)

    def nucleus_and_note(logits: Tensor, top_p: float) -> Tensor:
        reached = logits.softmax(dim=0).sort(descending=True).values.cumsum(dim=0, dtype=torch.float64)
        margins.append(float((reached - top_p).abs().min()))
        return nucleus(logits, top_p)

    with patch.object(sampler, "draw", draw_and_note), patch.object(sampler, "_nucleus_floor", nucleus_and_note):
        yield margins


@contextmanager
def foretold(answers: Sequence[Sequence[int]], wrong: float, seed: int = 0) -> Iterator[None]:
    """Every draft is what the answer (the one of these that begins like it) goes on with, but for a share of tokens.

    So that drafts prove right with a model whose answers hang on everything before them, and never repeat themselves.
    """
    chance = random.Random(seed)

    def draft(drafter: Drafter, answer: Sequence[int], count: int) -> TokenArray:
        whole = next(tokens for tokens in answers if list(tokens[: len(answer)]) == list(answer))
        tokens = whole[len(answer) : len(answer) + min(count, drafter.length)]
        return token_array([(token + 7) % 300 if chance.random() < wrong else token for token in tokens])

    with patch.object(Drafter, "draft", draft):
        yield


words = st.sampled_from(["def add", "(left, right)", " return", " left + right", "\n", "fox", " 12", "é"])
texts = st.lists(st.lists(words, min_size=1, max_size=6).map("".join), min_size=1, max_size=4).map(
    lambda parts: "".join(parts * 3)
)
samplings = st.one_of(
    st.just(SamplingParams(max_tokens=40)),
    st.builds(
        SamplingParams,
        temperature=st.sampled_from([0.0, 0.05, 0.3, 1.0]),
        top_p=st.sampled_from([0.8, 1.0]),
        repetition_penalty=st.sampled_from([0.8, 1.0, 1.2]),
        max_tokens=st.integers(1, 40),
        seed=st.integers(0, 5),
    ),
)


@settings(max_examples=40)
@given(text=texts, params=samplings, wrong=st.sampled_from([None, 0.0, 0.2, 1.0]), seed=st.integers(0, 99))
def test_an_answer_is_the_same_with_and_without_drafts(
    plain: Engine, drafting: Engine, text: str, params: SamplingParams, wrong: float | None, seed: int
) -> None:
    """Whatever is drafted: what stood before, what will be said, some of it, or none."""
    with closest_calls() as margins:
        expected, tokens = said(plain, text, params)
    assume(min(margins, default=1.0) > 1e-6)
    with nullcontext() if wrong is None else foretold([tokens], wrong, seed):
        done = ask(drafting, text, params)
    assert (done.text, done.stop_reason, done.usage.completion_tokens) == (
        expected.text,
        expected.stop_reason,
        expected.usage.completion_tokens,
    )
    drafting.check_integrity()


def test_drafts_that_are_right_save_steps(plain: Engine, drafting: Engine) -> None:
    _, tokens = said(plain, "Who?", SamplingParams(max_tokens=200))
    before = drafting.stats()
    with foretold([tokens], wrong=0.1):
        done = ask(drafting, "Who?", SamplingParams(max_tokens=200))
    after = drafting.stats()
    accepted = after.tokens_accepted - before.tokens_accepted
    assert done.usage.completion_tokens == 200
    assert 50 < accepted <= after.tokens_drafted - before.tokens_drafted
    assert after.tokens_decoded - before.tokens_decoded == 199
    assert after.steps - before.steps <= 200 - accepted


def test_answers_decode_together_with_drafts_as_each_alone(plain: Engine, drafting: Engine) -> None:
    params = [SamplingParams(max_tokens=80), SamplingParams(max_tokens=50, temperature=0.2, seed=3)]
    questions = list(zip(FILES.values(), params, strict=False))
    alone = [said(plain, text, chosen) for text, chosen in questions]
    with foretold([tokens for _, tokens in alone], wrong=0.1), watched_steps(drafting) as steps:
        with held_worker(drafting):
            streams = [drafting.chat([{"role": "user", "content": text}], chosen) for text, chosen in questions]
        assert [finish(stream).text for stream in streams] == [done.text for done, _ in alone]
    assert any(len(rows) == 2 and all(len(row.draft) for row in rows) for rows in steps)
    drafting.check_integrity()


def test_kv_of_drafts_serves_the_next_turn_as_if_it_were_computed_singly(plain: Engine, drafting: Engine) -> None:
    """What was rejected is written over, and what was accepted isn't computed again."""
    found = []
    for engine in (plain, drafting):
        context = engine.context("turns")
        context.add_chunk(FILES["b.md"], source="b.md")
        first = finish(context.chat("Who?", SamplingParams(max_tokens=100)))
        history = [{"role": "user", "content": "Who?"}, {"role": "assistant", "content": first.text}]
        second = finish(context.chat([*history, {"role": "user", "content": "And?"}], SamplingParams(max_tokens=60)))  # type: ignore[list-item]
        found.append((first.text, second.text))
        if engine is drafting:
            assert second.usage.reused_tokens >= first.usage.prompt_tokens + 99 - 16 - 16
    assert found[0] == found[1]


def test_an_answer_that_stands_in_the_prompt_comes_in_a_few_steps(scripted: Engine) -> None:
    with watched_steps(scripted) as steps:
        done = ask(scripted, SCRIPT, SamplingParams())
    assert (done.text, done.stop_reason) == (SCRIPT, "stop")
    assert done.usage.completion_tokens > 15
    assert len(steps) < 10


def test_nothing_is_said_behind_the_end_of_turn_that_was_drafted(scripted: Engine) -> None:
    """The prompt holds the answer of a turn before, its end and what came behind it."""
    turns = [
        {"role": "user", "content": "?"},
        {"role": "assistant", "content": SCRIPT},
        {"role": "user", "content": "?"},
    ]
    with watched_steps(scripted) as steps:
        done = finish(scripted.chat(turns))  # type: ignore[arg-type]
    assert (done.text, done.stop_reason) == (SCRIPT, "stop")
    ends = scripted._state.model.tokenizer.eos_token_ids
    drafts = [row.draft.tolist() for rows in steps for row in rows]
    assert any(draft and draft[-1] in ends for draft in drafts)
    assert not any(ends & set(draft[:-1]) for draft in drafts)


def test_a_stop_string_ends_an_answer_within_a_draft(scripted: Engine) -> None:
    with watched_steps(scripted) as steps:
        done = ask(scripted, SCRIPT, SamplingParams(stop=("567",)))
    assert (done.text, done.stop_reason) == (SCRIPT.partition("567")[0], "stop")
    assert any(len(row.draft) for rows in steps for row in rows)
    scripted.check_integrity()


@pytest.mark.parametrize("length", range(2, 12))
def test_the_longest_answer_is_no_longer_with_drafts(scripted: Engine, length: int) -> None:
    done = ask(scripted, SCRIPT, SamplingParams(max_tokens=length))
    assert (done.usage.completion_tokens, done.stop_reason) == (length, "length")
    assert SCRIPT.startswith(done.text)


def test_cancelling_between_and_within_steps_leaves_nothing_behind(plain: Engine, drafting: Engine) -> None:
    whole, tokens = said(plain, "Who?", SamplingParams(max_tokens=120))
    with foretold([tokens], wrong=0.1):
        for count in range(1, 12, 2):
            stream = drafting.chat([{"role": "user", "content": "Who?"}], SamplingParams(max_tokens=120))
            read = list(itertools.islice(stream, count))
            stream.cancel()
            done = finish(stream, read)
            assert whole.text.startswith(done.text)
            drafting.check_integrity()
        assert drafting.stats().running == 0
        assert ask(drafting, "Who?", SamplingParams(max_tokens=120)).text == whole.text


def test_a_pool_that_is_just_large_enough_stays_so_with_drafts(plain: Engine) -> None:
    """Two answers that fill every block between them."""
    prompts = ["a", "b"]
    expected, tokens = zip(*(said(plain, text, SamplingParams(max_tokens=60)) for text in prompts), strict=True)
    blocks = sum(-(-(done.usage.prompt_tokens + 59) // 16) for done in expected)
    with Engine(config(FOLDER, block_size=16, kv_cache_tokens=blocks * 16)) as engine, foretold(tokens, wrong=0.3):
        eager(engine)
        with held_worker(engine):
            streams = [
                engine.chat([{"role": "user", "content": text}], SamplingParams(max_tokens=60)) for text in prompts
            ]
        assert [finish(stream).text for stream in streams] == [done.text for done in expected]
        assert engine.stats().tokens_accepted
        engine.check_integrity()


def test_room_for_a_draft_leaves_a_block_to_every_growing_segment() -> None:
    store = SegmentStore(BlockManager(5), 4, lambda: frozenset())
    first, second = (store.open_private(bytes([n]), token_array(range(4)), 0) for n in range(2))
    assert store.reserve(first, 3) == 3
    assert store.reserve(second, 3) == 0, "the two that are left are for their next tokens"
    assert store.reserve(first, 9) == 4
    store.trim(first)
    assert (len(first.blocks), store.blocks.free) == (1, 3)
    store.check_integrity(pins=[])
    for segment in (first, second):
        store.append(segment, 7)
    store.check_integrity(pins=[])


@pytest.mark.parametrize("family", STATEFUL[:1])
def test_a_model_with_a_state_drafts_nothing(family: str) -> None:
    with Engine(config(tiny_model(family))) as engine:
        ask(engine, "Who? " * 20, SamplingParams(max_tokens=40))
        assert engine.stats().tokens_drafted == 0


@dataclass
class Eager:
    """An answer that would draft as much as it may."""

    draft_length: int

    def draft(self, most: int) -> TokenArray:
        return token_array([7] * min(most, self.draft_length))


@given(st.lists(st.sampled_from([1, 3, 7, 15]).map(Eager), min_size=1, max_size=20))
def test_a_step_with_drafts_stays_small_and_nobody_takes_all_the_room(answers: list[Eager]) -> None:
    speculation = Speculation()
    speculation._ledger = AlwaysWorthIt()
    lengths = [len(draft) for draft in speculation.drafts(answers)]
    assert len(lengths) == len(answers)
    assert not any(lengths) or sum(lengths) + len(answers) <= 16
    assert max(lengths) <= max(1, -(-(16 - len(answers)) // len(answers)))


def test_drafts_begin_by_themselves_once_their_cost_is_earned() -> None:
    with Engine(config(FOLDER)) as engine:
        _, tokens = said(engine, "Who?", SamplingParams(max_tokens=300))
        with foretold([tokens], wrong=0.0):
            while not engine.stats().tokens_accepted:
                ask(engine, "Who?", SamplingParams(max_tokens=300))


def test_a_draft_that_breaks_fails_its_answer_and_no_other(drafting: Engine) -> None:
    question, params = "def add def add def add", SamplingParams(max_tokens=20)
    with patch.object(Drafter, "draft", side_effect=ZeroDivisionError("nothing")), pytest.raises(EngineError):
        ask(drafting, question, params)
    assert ask(drafting, question, params).usage.completion_tokens > 0

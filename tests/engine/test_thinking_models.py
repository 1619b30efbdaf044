"""Models that think before they answer: what streams, what is kept, and what the next turn is told."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from tokenizers import AddedToken

from engine import Engine, SamplingParams
from engine.types import ChatDelta, ChatDone
from tests.engine.oracle import finish
from tests.engine.test_parity import config
from tests.engine.test_reasoning import HARMONY
from tests.scripted_models import ANSWER, OPENING_CHATML, THOUGHT, make_scripted_model, make_thinking_model
from tests.tiny_models import make_tiny_model, make_tokenizer

MARKS = ("<think>", "</think>")

HARMONY_TEMPLATE = (
    "{% for m in messages %}<|start|>{{ m.role }}{% if m.role == 'assistant' %}<|channel|>final{% endif %}"
    "<|message|>{{ m.content }}<|end|>{% endfor %}{% if add_generation_prompt %}<|start|>assistant{% endif %}"
)


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    with Engine(config(make_thinking_model(tmp_path_factory.mktemp("thinking")))) as engine:
        yield engine
        engine.check_integrity()


def kinds(events: Sequence[Any]) -> list[tuple[str, str]]:
    """What streamed, neighbors of one kind joined."""
    joined: list[tuple[str, str]] = []
    for event in events:
        if isinstance(event, ChatDelta):
            if joined and joined[-1][0] == event.kind:
                event = ChatDelta(joined.pop()[1] + event.text, event.kind)
            joined.append((event.kind, event.text))
    return joined


def test_thoughts_stream_as_their_own_kind_before_the_answer(engine: Engine) -> None:
    *deltas, done = engine.context().chat("How often?")
    assert isinstance(done, ChatDone)
    assert kinds(deltas) == [("reasoning", THOUGHT), ("answer", ANSWER)]
    assert len(deltas) > 2, "they came piece by piece"
    assert (done.stop_reason, done.text, done.reasoning) == ("stop", ANSWER, THOUGHT)
    tokenizer = engine._state.model.tokenizer
    thought = len(tokenizer.encode(f"<think>{THOUGHT}</think>", special=True))
    whole = len(tokenizer.encode(f"<think>{THOUGHT}</think>\t{ANSWER}", special=True))
    assert (done.usage.reasoning_tokens, done.usage.completion_tokens) == (thought, whole + 1)


def test_the_output_chunk_and_the_next_turn_hold_the_answer_alone(engine: Engine) -> None:
    context = engine.context("turns")
    done = finish(context.chat("How often?"))
    assert done.output is not None
    assert context.text(done.output) == ANSWER
    history: Any = [
        {"role": "user", "content": "How often?"},
        {"role": "assistant", "content": done.text},
        {"role": "user", "content": "Sure?"},
    ]
    tokenizer = engine._state.model.tokenizer
    chunk = context._manager.find(done.output)
    assert chunk.generated == tuple(tokenizer.encode(ANSWER, special=False))
    prompt = tokenizer.decode(context.prompt_tokens(history), skip_special_tokens=False)
    assert ANSWER in prompt
    assert THOUGHT not in prompt
    assert "think>" not in prompt


def test_a_template_may_open_the_thoughts(tmp_path: Path) -> None:
    make_scripted_model(tmp_path, f"{THOUGHT}</think>\t{ANSWER}", marks=MARKS, template=OPENING_CHATML)
    with Engine(config(tmp_path)) as engine:
        *deltas, done = engine.chat([{"role": "user", "content": "How often?"}])
        assert kinds(deltas) == [("reasoning", THOUGHT), ("answer", ANSWER)]
        assert isinstance(done, ChatDone)
        assert (done.text, done.reasoning) == (ANSWER, THOUGHT)


def test_an_answer_that_ends_while_it_thinks_is_empty(engine: Engine) -> None:
    context = engine.context("short")
    done = finish(context.chat("How often?", SamplingParams(max_tokens=3)))
    assert (done.stop_reason, done.text, done.output) == ("length", "", None)
    assert THOUGHT.startswith(done.reasoning)
    assert done.reasoning
    assert done.usage.completion_tokens == done.usage.reasoning_tokens == 3
    assert context.chunks() == []


def test_stop_strings_pass_over_thoughts(engine: Engine) -> None:
    done = finish(engine.context().chat("How often?", SamplingParams(stop=("read", "fox"))))
    assert (done.stop_reason, done.reasoning, done.text) == ("stop", THOUGHT, "Once, the ")


@contextmanager
def scripted(engine: Engine, tokens: Sequence[int]) -> Iterator[None]:
    """The next answer consists of these tokens, whatever the model computes."""
    sampler, script = engine._worker._sampler, iter(tokens)
    original = sampler.sample
    sampler.sample = lambda logits, rows, drafts: [[next(script)] for _ in rows]  # type: ignore[method-assign, assignment, misc]
    try:
        yield
    finally:
        sampler.sample = original  # type: ignore[method-assign]


def test_a_model_that_speaks_in_channels(tmp_path: Path) -> None:
    fast = make_tokenizer()
    fast.add_tokens([AddedToken(name, special=True, normalized=False) for name in HARMONY])
    fast.chat_template = HARMONY_TEMPLATE
    make_tiny_model("llama", tmp_path, vocab_size=len(fast), endless=False)
    fast.save_pretrained(tmp_path)
    with Engine(config(tmp_path)) as engine:
        tokenizer = engine._state.model.tokenizer
        said = (
            f"<|channel|>analysis<|message|>{THOUGHT}<|end|>"
            f"<|start|>assistant<|channel|>final<|message|>{ANSWER}<|end|>never shown"
        )
        with scripted(engine, tokenizer.encode(said, special=True)):
            *deltas, done = engine.context().chat("How often?")
        assert kinds(deltas) == [("reasoning", THOUGHT), ("answer", ANSWER)]
        assert isinstance(done, ChatDone)
        assert (done.stop_reason, done.text, done.reasoning) == ("stop", ANSWER, THOUGHT)
        assert done.output is not None
        assert engine.context()._manager.find(done.output).generated == tuple(tokenizer.encode(ANSWER, special=False))

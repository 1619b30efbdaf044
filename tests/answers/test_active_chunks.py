"""An answer comes from the chunks that are active, and from nothing else."""

from __future__ import annotations

import pytest

from engine import Engine, SamplingParams
from engine.context import Context
from engine.types import ChatDone
from tests.answers.matching import Expected

pytestmark = [pytest.mark.answers, pytest.mark.timeout(900)]

CLAIM = "The capital of France is Lyon."
QUESTION = "What is the capital of France?"
LYON = Expected(("Lyon",), refused=("Paris",))
PARIS = Expected(("Paris",), refused=("Lyon",))


def test_a_chunk_is_believed_while_it_is_active(engine: Engine) -> None:
    context = engine.context("capital")
    chunk = context.add_chunk(CLAIM)
    first = ask(context)
    assert LYON.met_by(first.text)
    context.deactivate(chunk.hash)
    assert PARIS.met_by(ask(context).text)
    context.activate(chunk.hash)
    again = ask(context)
    assert LYON.met_by(again.text)
    assert again.usage.reused_tokens >= chunk.tokens
    assert again.usage.prefilled_tokens <= first.usage.prefilled_tokens - chunk.tokens


def ask(context: Context) -> ChatDone:
    *_, done = context.chat(QUESTION, SamplingParams(max_tokens=32))
    assert isinstance(done, ChatDone)
    return done

"""The same parity on a real model: smollm2-135m over real source files."""

from __future__ import annotations

import inspect
import textwrap
import this
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from engine import Engine, SamplingParams
from engine.models.resolve import resolve_model
from tests.engine.oracle import finish
from tests.engine.test_parity import ask_and_compare, config

# transformers computes every prompt from nothing, in its plainest attention
pytestmark = pytest.mark.timeout(600)

SOURCES = {
    "textwrap.py": inspect.getsource(textwrap.dedent),
    "this.py": inspect.getsource(this)[:400],
    "inspect.py": inspect.getsource(inspect.cleandoc),
}


@pytest.fixture(scope="module")
def model_folder() -> Path:
    return resolve_model("smollm2-135m")


ON_CUDA = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]


@pytest.fixture(scope="module", params=["cpu", pytest.param("cuda", marks=ON_CUDA)])
def engine(request: pytest.FixtureRequest, model_folder: Path) -> Iterator[Engine]:
    with Engine(config(model_folder, slice_tokens=200, device=request.param)) as engine:
        yield engine
        engine.check_integrity()


def test_cold_edited_switched_moved_and_cancelled(engine: Engine, model_folder: Path) -> None:
    context = engine.context("real")
    for source, text in SOURCES.items():
        context.add_chunk(text, source=source)
    question = "What does dedent return?"
    ask_and_compare(engine, model_folder, context, question, count=8)
    context.add_chunk(SOURCES["this.py"].replace("Gur", "The", 1), source="this.py")
    stream = context.chat(question, SamplingParams(max_tokens=200))
    next(stream)
    stream.cancel()
    ask_and_compare(engine, model_folder, context, question, count=8)
    context.deactivate("textwrap.py")
    finish(context.chat(question, SamplingParams(max_tokens=4), fidelity="instant"))
    ask_and_compare(engine, model_folder, context, question, count=8)
    context.activate("textwrap.py")
    context.move("textwrap.py", -1)
    ask_and_compare(engine, model_folder, context, question, count=8)


def test_a_conversation_over_a_file(engine: Engine, model_folder: Path) -> None:
    context = engine.context("talk")
    context.add_chunk(SOURCES["inspect.py"], source="inspect.py")
    first = ask_and_compare(engine, model_folder, context, "What does cleandoc do?", count=40)
    messages = [
        {"role": "user", "content": "What does cleandoc do?"},
        {"role": "assistant", "content": first.text},
        {"role": "user", "content": "And what does it need?"},
    ]
    second = ask_and_compare(engine, model_folder, context, messages, count=8)  # type: ignore[arg-type]
    assert second.usage.prefilled_tokens < 64 + 32

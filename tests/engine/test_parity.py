"""The engine's numbers are transformers' numbers: cold, warm, and over KV that has moved."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from engine import Engine, EngineConfig, SamplingParams
from engine.context import Context
from engine.types import ChatDone, FidelityLabel, Message
from tests.engine.oracle import assert_greedy, finish, oracle, recorded_logits
from tests.tiny_models import FAMILIES, tiny_model

FILES = {
    "a.py": "def add(left, right):\n    return left + right\n" * 4,
    "b.md": "# Reading\n\nA file is read once; what is in it can be asked about. \n" * 5,
    "c.py": "class Greeter:\n    name = 'dog'\n",
}


def config(folder: Path, **changes: object) -> EngineConfig:
    """For engines that compute what transformers does: in float32, and with the weights that it would have."""
    fields = {"model": str(folder), "dtype": "float32", "kv_cache_tokens": 8192, "slice_tokens": 50, "device": "cpu"}
    return EngineConfig(**({"quantized_decode": False} | fields | changes))  # type: ignore[arg-type]


@pytest.fixture(params=FAMILIES)
def family_engine(request: pytest.FixtureRequest) -> Iterator[tuple[Engine, Path]]:
    folder = tiny_model(request.param)
    with Engine(config(folder)) as engine:
        yield engine, folder


def ask_and_compare(
    engine: Engine, folder: Path, context: Context, messages: str | list[Message], count: int = 12
) -> ChatDone:
    """Ask exactly; tokens must be the oracle's, and logits within the tolerance."""
    ids = context.prompt_tokens(messages, fidelity="exact")
    params = SamplingParams(max_tokens=count)
    with recorded_logits(engine, params) as recorded:
        done = finish(context.chat(messages, params, fidelity="exact"))
    engine.check_integrity()
    tokens, logits = oracle(folder).greedy(ids, count, engine._state.model.tokenizer.eos_token_ids)
    assert_greedy(recorded, tokens, logits)
    assert done.usage.prompt_tokens == len(ids)
    assert all(chunk.fidelity is FidelityLabel.EXACT for chunk in done.chunks)
    return done


def test_cold_warm_and_recomposed(family_engine: tuple[Engine, Path]) -> None:
    engine, folder = family_engine
    context = engine.context("files")
    for source, text in FILES.items():
        context.add_chunk(text, source=source)
    cold = ask_and_compare(engine, folder, context, "What is read once?")
    assert cold.usage.reused_tokens == 0
    warm = ask_and_compare(engine, folder, context, "And how often?")
    assert warm.usage.reused_tokens >= sum(chunk.tokens for chunk in context.chunks() if chunk.active)
    context.deactivate("b.md")
    ask_and_compare(engine, folder, context, "What is read once?")
    context.activate("b.md")
    assert ask_and_compare(engine, folder, context, "What is read once?").usage.prefilled_tokens < 64
    context.move("c.py", 0)
    ask_and_compare(engine, folder, context, "What is read once?")
    context.add_chunk(FILES["a.py"].replace("left + right", "right - left", 1), source="a.py")
    ask_and_compare(engine, folder, context, "What does it return?")


def test_without_a_context_it_is_the_chat_template(family_engine: tuple[Engine, Path]) -> None:
    engine, folder = family_engine
    messages: list[Message] = [
        {"role": "user", "content": "Hello"},
        {"role": "assistant", "content": "Good day."},
        {"role": "user", "content": "What now?"},
    ]
    tokenizer = engine._state.model.tokenizer
    ids = tokenizer._fast.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
    params = SamplingParams(max_tokens=10)
    with recorded_logits(engine, params) as recorded:
        done = finish(engine.chat(messages, params))
    tokens, logits = oracle(folder).greedy(ids, 10, tokenizer.eos_token_ids)
    assert_greedy(recorded, tokens, logits)
    assert done.usage.prompt_tokens == len(ids)
    assert done.output is None


def test_a_conversation_reuses_its_answers(family_engine: tuple[Engine, Path]) -> None:
    engine, folder = family_engine
    context = engine.context("talk")
    context.add_chunk(FILES["b.md"], source="b.md")
    messages: list[Message] = []
    for question in ("What is read once?", "How often is it asked about?", "And then?"):
        messages.append({"role": "user", "content": question})
        done = ask_and_compare(engine, folder, context, messages, count=80)
        messages.append({"role": "assistant", "content": done.text})
    if engine._state.model.stateful:
        # its state is kept behind whole pieces only, and the conversation is one
        assert done.usage.reused_tokens > context.chunk("b.md").tokens
    else:
        # the turns before the last question are there but for the block that was not full, and the answer's last token
        assert done.usage.prefilled_tokens <= 64 + 40


def test_a_template_without_system_role_still_holds_the_chunks() -> None:
    folder = tiny_model("llama", system_role=False)
    with Engine(config(folder)) as engine:
        context = engine.context()
        context.add_chunk(FILES["c.py"], source="c.py")
        assert FILES["c.py"] in context.prompt("Who?")
        ask_and_compare(engine, folder, context, "Who?")

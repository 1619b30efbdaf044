"""The OpenAI route: whole and streamed answers, with and without a context, what is refused and what is ignored."""

from __future__ import annotations

import json
import threading
from dataclasses import asdict
from typing import Any

import pytest

from engine.config import SamplingParams
from engine.errors import EngineError
from engine.serve.answers import _joined
from engine.types import ChatDelta
from tests.serve import openai_schema
from tests.serve.fake_engine import ENDLESS, THOUGHT, WORD, FakeEngine, Script
from tests.serve.serving import Served, chat_body, chat_chunks, error_of, serving, until

CTX_FIELDS = {"stop_reason", "usage", "timing", "chunks", "output"}


def stream(served: Served, text: str = "why?", **fields: Any) -> list[dict[str, Any]]:
    with served.client.stream("POST", "/v1/chat/completions", json=chat_body(text, stream=True, **fields)) as response:
        assert response.status_code == 200, response.read()
        assert response.headers["content-type"].startswith("text/event-stream")
        return chat_chunks(response.iter_lines())


def text_of(chunks: list[dict[str, Any]]) -> str:
    return "".join(choice["delta"].get("content", "") for chunk in chunks for choice in chunk["choices"])


def test_a_whole_answer(served: Served) -> None:
    response = served.ask("one two three")
    assert response.status_code == 200
    body = response.json()
    ctx = body.pop("ctx")
    answer = openai_schema.ChatCompletion.model_validate(body)
    assert answer.choices[0].message.content == WORD * 5
    assert answer.choices[0].finish_reason == "stop"
    assert answer.model == "fake-model"
    assert answer.usage.model_dump() == {
        "prompt_tokens": 3,
        "completion_tokens": 5,
        "total_tokens": 8,
        "prompt_tokens_details": {"cached_tokens": 1},
        "completion_tokens_details": {"reasoning_tokens": 0},
    }
    assert "reasoning_content" not in body["choices"][0]["message"]
    assert set(ctx) == CTX_FIELDS
    assert ctx["stop_reason"] == "stop"
    assert ctx["usage"]["prefilled_tokens"] == 2


@pytest.mark.parametrize("include_usage", [False, True])
def test_a_streamed_answer(served: Served, include_usage: bool) -> None:
    chunks = stream(served, stream_options={"include_usage": include_usage})
    extension = [chunk.pop("ctx", None) for chunk in chunks]
    assert set(extension[-1]) == CTX_FIELDS
    assert extension[:-1] == [None] * (len(chunks) - 1)
    parsed = [openai_schema.ChatCompletionChunk.model_validate(chunk) for chunk in chunks]
    assert len({(chunk.id, chunk.created, chunk.model) for chunk in parsed}) == 1
    assert parsed[0].choices[0].delta.role == "assistant"
    assert text_of(chunks) == WORD * 5
    if include_usage:
        last = parsed.pop()
        assert last.choices == []
        assert last.usage is not None
        assert last.usage.completion_tokens == 5
    assert [chunk.choices[0].finish_reason for chunk in parsed] == [None] * (len(parsed) - 1) + ["stop"]
    assert all(chunk.usage is None for chunk in parsed)


def test_the_length_of_an_answer(served: Served) -> None:
    for name in ("max_tokens", "max_completion_tokens"):
        most: dict[str, Any] = {name: 2}
        body = served.ask(**most).json()
        assert body["choices"][0]["finish_reason"] == "length"
        assert body["choices"][0]["message"]["content"] == WORD * 2
        assert stream(served, **most)[-1]["choices"][0]["finish_reason"] == "length"
    assert served.ask(max_tokens=3, max_completion_tokens=2).json()["usage"]["completion_tokens"] == 2


def test_text_that_comes_while_the_client_reads_slowly_is_not_lost(served: Served, engine: FakeEngine) -> None:
    engine.script.words = 5000
    assert text_of(stream(served)) == WORD * 5000


def test_thoughts_are_a_field_of_their_own(served: Served, engine: FakeEngine) -> None:
    engine.script.thoughts = 3
    body = served.ask().json()
    ctx = body.pop("ctx")
    answer = openai_schema.ChatCompletion.model_validate(body)
    message = answer.choices[0].message
    assert (message.content, message.reasoning_content) == (WORD * 5, THOUGHT * 3)
    assert answer.usage.completion_tokens_details.reasoning_tokens == 3
    assert answer.usage.completion_tokens == 8
    assert set(ctx) == CTX_FIELDS


def test_thoughts_are_streamed_apart(served: Served, engine: FakeEngine) -> None:
    engine.script.thoughts = 200
    chunks = stream(served, stream_options={"include_usage": True})
    chunks[-1].pop("ctx")
    deltas = [
        choice.delta
        for chunk in map(openai_schema.ChatCompletionChunk.model_validate, chunks)
        for choice in chunk.choices
    ]
    assert "".join(delta.reasoning_content or "" for delta in deltas) == THOUGHT * 200
    assert "".join(delta.content or "" for delta in deltas) == WORD * 5
    assert not any(delta.content and delta.reasoning_content for delta in deltas)
    assert chunks[-1]["usage"]["completion_tokens_details"] == {"reasoning_tokens": 200}


def test_pieces_are_joined_by_kind() -> None:
    thoughts, words = [ChatDelta(text, "reasoning") for text in "ab"], [ChatDelta(text) for text in "cd"]
    assert list(_joined([*thoughts, *words, *thoughts])) == [
        ChatDelta("ab", "reasoning"),
        ChatDelta("cd"),
        ChatDelta("ab", "reasoning"),
    ]


def test_an_answer_may_end_in_its_thoughts(served: Served, engine: FakeEngine) -> None:
    engine.script.thoughts = 3
    choice = served.ask(max_tokens=2).json()["choices"][0]
    assert (choice["message"]["content"], choice["message"]["reasoning_content"]) == ("", THOUGHT * 2)
    assert choice["finish_reason"] == "length"


def test_an_empty_answer(served: Served, engine: FakeEngine) -> None:
    engine.script.words = 0
    assert served.ask().json()["choices"][0]["message"]["content"] == ""
    chunks = stream(served)
    assert text_of(chunks) == ""
    assert chunks[-1]["choices"][0]["finish_reason"] == "stop"


@pytest.mark.parametrize("streamed", [False, True])
def test_sampling_reaches_the_engine(served: Served, engine: FakeEngine, streamed: bool) -> None:
    fields: dict[str, Any] = {
        "temperature": 0.5,
        "top_p": 0.9,
        "top_k": 7,
        "min_p": 0.1,
        "repetition_penalty": 1.1,
        "seed": 3,
    }
    served.ask(**fields, stop="end", max_tokens=9, stream=streamed)
    nothing: dict[str, Any] = dict.fromkeys(fields)
    served.ask(**nothing, stop=None, stream=streamed)
    served.ask(temperature=1, stop=["a", "b"], stream=streamed)
    asked = [asdict(params) for params in (question.params for question in engine.questions)]
    assert asked[0] == fields | {"stop": ("end",), "max_tokens": 9}
    assert asked[1] == asdict(SamplingParams())
    assert asked[2] == asdict(SamplingParams(temperature=1.0, stop=("a", "b")))


def test_messages_reach_the_engine(served: Served, engine: FakeEngine) -> None:
    parts = [{"type": "text", "text": "a "}, {"type": "text", "text": "b"}]
    messages = [
        {"role": "developer", "content": "be brief"},
        {"role": "user", "content": parts, "name": "Ada"},
        {"role": "assistant", "content": "c", "refusal": None, "reasoning_content": "never told again"},
        {"role": "user", "content": "d"},
    ]
    assert served.post("/v1/chat/completions", {"messages": messages}).status_code == 200
    assert engine.questions[0][0] == [
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": "a b"},
        {"role": "assistant", "content": "c"},
        {"role": "user", "content": "d"},
    ]


@pytest.mark.parametrize("streamed", [False, True])
def test_a_question_in_a_context(served: Served, engine: FakeEngine, streamed: bool) -> None:
    served.put()
    seen = served.add("four words of text", source="a.py")
    served.add("not active", active=False)
    fields: dict[str, Any] = {"context": "c", "fidelity": "instant", "latency_budget_ms": 250, "tags": ["t"]}
    ctx = (
        stream(served, "two words", **fields)[-1]["ctx"]
        if streamed
        else served.ask("two words", **fields).json()["ctx"]
    )
    assert [(chunk["hash"], chunk["name"], chunk["tokens"]) for chunk in ctx["chunks"]] == [(seen["hash"], "a.py", 4)]
    assert ctx["usage"]["prompt_tokens"] == 6
    assert engine.questions[0][2:] == ("instant", 0.25, ("t",))
    served.ask("two words", context="c", stream=streamed)
    assert engine.questions[1][2:] == ("auto", None, ())


@pytest.mark.parametrize("streamed", [False, True])
def test_errors_before_the_answer_are_http_errors(served: Served, engine: FakeEngine, streamed: bool) -> None:
    response = served.ask(context="nowhere", stream=streamed)
    assert (response.status_code, error_of(response)["code"]) == (404, "unknown_context")
    response = served.ask("word " * 1000, stream=streamed)
    assert (response.status_code, error_of(response)["code"]) == (413, "context_full")
    assert error_of(response)["data"] == {"needed": 1001, "limit": 1000}
    engine.script.error_after = 0
    response = served.ask(stream=streamed)
    assert (response.status_code, error_of(response)["code"]) == (500, "engine_error")
    engine.script.error = RuntimeError("a defect")
    response = served.ask(stream=streamed)
    assert (response.status_code, error_of(response)["code"]) == (500, "internal_error")
    assert "RuntimeError: a defect" in error_of(response)["message"]


@pytest.mark.parametrize(
    ("error", "code"), [(EngineError("broke"), "engine_error"), (ValueError("x"), "internal_error")]
)
def test_an_error_within_a_stream_is_its_last_event(error: Exception, code: str) -> None:
    with serving(FakeEngine(script=Script(error_after=3, error=error))) as served:
        chunks = stream(served)
        assert text_of(chunks[:-1]) == WORD * 3
        assert chunks[-1]["error"]["code"] == code
        response = served.ask()
        assert (response.status_code, error_of(response)["code"]) == (500, code)


@pytest.mark.parametrize("streamed", [False, True])
def test_an_answer_that_somebody_else_cancels(streamed: bool) -> None:
    engine = FakeEngine(script=Script(words=ENDLESS, pause=0.001))

    def cancel() -> None:
        until(lambda: engine.decoded > 3)
        next(iter(engine.running)).cancel()

    canceller = threading.Thread(target=cancel)
    with serving(engine) as served:
        canceller.start()
        if streamed:
            assert stream(served)[-1]["error"]["code"] == "cancelled"
        else:
            response = served.ask()
            assert (response.status_code, error_of(response)["code"]) == (503, "cancelled")
        canceller.join()
        until(lambda: len(served.server.services.answers) == 0)


BAD_FIELDS: list[tuple[dict[str, Any], str]] = [
    ({"messages": []}, "messages"),
    ({"messages": "hello"}, "messages"),
    ({"messages": [{"role": "user"}]}, "messages[0].content"),
    ({"messages": [{"role": "tool", "content": "x"}]}, "messages[0].role"),
    ({"messages": [{"role": "user", "content": None}]}, "messages[0].content"),
    ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]}, "messages[0].content"),
    ({"messages": [{"role": "user", "content": "\ud800"}]}, "messages[0].content"),
    ({"temperature": "hot"}, "temperature"),
    ({"temperature": True}, "temperature"),
    ({"temperature": float("inf")}, "temperature"),
    ({"seed": 1 << 63}, "seed"),
    ({"stop": ["\ud800"]}, "stop[0]"),
    ({"max_tokens": 1.5}, "max_tokens"),
    ({"stream": "yes"}, "stream"),
    ({"stop": 3}, "stop"),
    ({"stop": ["a", 3]}, "stop[1]"),
    ({"fidelity": "perfect"}, "fidelity"),
    ({"latency_budget_ms": -1}, "latency_budget_ms"),
    ({"latency_budget_ms": float("nan")}, "latency_budget_ms"),
    ({"context": ""}, "context"),
    ({"context": "c", "tags": [""]}, "tags[0]"),
]


@pytest.mark.parametrize(("fields", "param"), BAD_FIELDS, ids=[str(fields)[:60] for fields, _ in BAD_FIELDS])
def test_bad_fields_are_named(served: Served, fields: dict[str, Any], param: str) -> None:
    body = chat_body() | fields
    content = json.dumps(body)  # unlike httpx' own, it spells what is not JSON or not Unicode
    response = served.client.post("/v1/chat/completions", content=content, headers={"Content-Type": "application/json"})
    assert response.status_code == 400
    error = error_of(response)
    assert (error["code"], error["param"]) == ("invalid_request", param)
    assert param in error["message"]


@pytest.mark.parametrize(
    ("fields", "word"),
    [
        ({"temperature": -1}, "temperature"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"top_p": 0}, "top_p"),
        ({"stop": ""}, "stop"),
        ({"n": 2}, "n"),
        ({"tools": [{"type": "function"}]}, "tools"),
        ({"response_format": {"type": "json_object"}}, "response_format"),
        ({"tags": ["t"]}, "tags"),
    ],
)
def test_values_that_cant_be_served_are_refused(served: Served, fields: dict[str, Any], word: str) -> None:
    response = served.ask(**fields)
    assert response.status_code == 400
    assert error_of(response)["code"] == "invalid_request"
    assert error_of(response)["message"].startswith(word)


def test_harmless_and_unknown_fields_are_accepted(served: Served) -> None:
    neutral: dict[str, Any] = {"n": 1, "presence_penalty": 0, "logprobs": False, "tools": [], "tool_choice": "auto"}
    unknown: dict[str, Any] = {"user": "ada", "metadata": {"a": "b"}, "store": False, "brand_new": [1]}
    assert served.ask(**neutral, **unknown, response_format={"type": "text"}, logit_bias=None).status_code == 200


@pytest.mark.parametrize("model", ["fake-model", "", "default", None])
def test_the_model_may_be_named(served: Served, model: str | None) -> None:
    body = served.ask(model=model).json()
    assert body["model"] == "fake-model"


def test_another_model_is_not_pretended(served: Served) -> None:
    response = served.ask(model="gpt-4")
    assert (response.status_code, error_of(response)["code"]) == (404, "model_not_found")
    assert error_of(response)["data"] == {"served": "fake-model"}


def test_models(served: Served) -> None:
    models = openai_schema.ModelList.model_validate(served.client.get("/v1/models").json())
    assert [model.id for model in models.data] == ["fake-model"]


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"null", b'"x"', b"\xff"])
def test_bodies_that_are_not_json_objects(served: Served, content: bytes) -> None:
    headers = {"Content-Type": "application/json"}
    response = served.client.post("/v1/chat/completions", content=content, headers=headers)
    assert response.status_code == 400
    assert error_of(response)["code"] == "invalid_request"


def test_a_body_of_another_type(served: Served) -> None:
    response = served.client.post("/v1/chat/completions", content=b"{}", headers={"Content-Type": "text/plain"})
    assert response.status_code == 400
    assert "application/json" in error_of(response)["message"]


def test_too_many_answers_at_once() -> None:
    engine = FakeEngine(script=Script(words=ENDLESS, pause=0.001))
    with serving(engine, max_answers=1) as served:
        with served.client.stream("POST", "/v1/chat/completions", json=chat_body(stream=True)):
            response = served.ask()
            assert (response.status_code, error_of(response)["code"]) == (429, "too_many_requests")
        until(lambda: not engine.running)
        engine.script.words = 1
        until(lambda: served.ask().status_code == 200)


def test_a_hundred_answers_at_once_starve_nobody() -> None:
    engine = FakeEngine(script=Script(words=ENDLESS, pause=0.01))
    count = 100
    statuses: list[int] = []
    with serving(engine) as served:

        def ask() -> None:
            with served.new_client() as client:
                statuses.append(client.post("/v1/chat/completions", json=chat_body()).status_code)

        threads = [threading.Thread(target=ask) for _ in range(count)]
        for thread in threads:
            thread.start()
        until(lambda: len(engine.running) == count)
        served.put()
        served.add("others are served meanwhile")
        engine.script.words = 0
        for running in list(engine.running):
            running.cancel()
        for thread in threads:
            thread.join()
    assert statuses == [503] * count

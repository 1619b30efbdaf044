"""The whole thing: `ctx-engine` with a real engine and a small random model, as a process, over HTTP."""

from __future__ import annotations

import hashlib
import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
from prometheus_client.parser import text_string_to_metric_families

from engine.config import EngineConfig
from engine.device import choose_dtype
from tests.scripted_models import ANSWER, THOUGHT, make_thinking_model
from tests.serve import openai_schema
from tests.serve.fake_engine import texts_with_equal_prefix
from tests.serve.processes import REAL, Process, started
from tests.serve.serving import chat_chunks, error_of, sse_events, until
from tests.tiny_models import tiny_model

SOURCE = "def area(width, height):\n    return width * height\n" * 12
ENDLESS = 3000  # tokens; more than is ever decoded here


def arguments(**options: Any) -> list[str]:
    fields = {"model": tiny_model("qwen2"), "device": "cpu", "threads": 1, "kv_cache_tokens": 8192} | options
    return [text for name, value in fields.items() for text in (f"--{name.replace('_', '-')}", str(value))]


@pytest.fixture(scope="module")
def process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    folder = tmp_path_factory.mktemp("engine") / "run"
    with started(folder, *arguments(), module=REAL) as process:
        process.until_status("ready")
        yield process


@pytest.fixture
def client(process: Process) -> Iterator[httpx.Client]:
    with process.client() as client:
        client.put("/v1/contexts/c")
        yield client
        client.delete("/v1/contexts/c")


def add(client: httpx.Client, text: str, **fields: Any) -> dict[str, Any]:
    response = client.post("/v1/contexts/c/chunks", json={"text": text, **fields})
    assert response.status_code == 200, response.text
    chunk = response.json()
    assert isinstance(chunk, dict)
    return chunk


def question(text: str = "What does it do?", **fields: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": text}], "max_tokens": 12, **fields}


def metric(client: httpx.Client, name: str) -> float:
    lines = client.get("/metrics").text.splitlines()
    return float(next(line.split()[1] for line in lines if line.startswith(f"ctx_engine_{name} ")))


def test_health(process: Process, client: httpx.Client) -> None:
    health = client.get("/health").json()
    dtype = str(choose_dtype(EngineConfig(), torch.device("cpu"))).removeprefix("torch.")
    assert (health["status"], health["device"], health["dtype"]) == ("ready", "cpu", dtype)
    assert (health["max_context"], health["pid"]) == (4096, process.popen.pid)
    assert client.get("/v1/models").json()["data"][0]["id"] == health["model"]


def test_metrics_are_in_prometheus_format(client: httpx.Client) -> None:
    families = {family.name: family for family in text_string_to_metric_families(client.get("/metrics").text)}
    assert families["ctx_engine_tokens_decoded"].type == "counter"
    assert families["ctx_engine_blocks_total"].type == "gauge"
    assert families["ctx_engine_blocks_total"].samples[0].value > 0


def test_a_question_about_a_warm_file(client: httpx.Client) -> None:
    chunk = add(client, SOURCE, source="area.py")
    assert chunk["hash"] == hashlib.sha256(SOURCE.encode()).hexdigest()
    with client.stream("GET", "/v1/events?context=c") as response:
        events = sse_events(response.iter_lines())
        next(events)
        plan = client.post("/v1/contexts/c/populate").json()
        assert plan["prefill"] > chunk["tokens"] > 0
        seen: dict[str, Any] = {"done": 0, "total": 1}
        while seen["done"] < seen["total"]:
            name, data = next(events)
            seen = json.loads(data) if name == "populate_progress" else seen
    (warm,) = client.get("/v1/contexts/c").json()["chunks"]
    assert (warm["fidelity"], warm["warm_tokens"]) == ("exact", warm["tokens"])

    planned = client.post("/v1/contexts/c/plan", json={"messages": "What does it do?"}).json()
    answer = client.post("/v1/chat/completions", json=question(context="c")).json()
    ctx = answer.pop("ctx")
    usage = openai_schema.ChatCompletion.model_validate(answer).usage
    assert usage.prompt_tokens == planned["tokens"]
    assert usage.prompt_tokens_details.cached_tokens == planned["reused"] >= warm["tokens"]
    assert [(item["name"], item["fidelity"]) for item in ctx["chunks"]] == [("area.py", "exact")]
    assert (
        client.get(f"/v1/contexts/c/chunks/{ctx['output']}").json()["text"]
        == answer["choices"][0]["message"]["content"]
    )


def test_streamed_and_whole_answers_agree(client: httpx.Client) -> None:
    whole = client.post("/v1/chat/completions", json=question()).json()["choices"][0]
    body = question(stream=True, stream_options={"include_usage": True})
    with client.stream("POST", "/v1/chat/completions", json=body) as response:
        chunks = chat_chunks(response.iter_lines())
    assert set(chunks[-1].pop("ctx")) == {"stop_reason", "usage", "timing", "chunks", "output"}
    parsed = [openai_schema.ChatCompletionChunk.model_validate(chunk) for chunk in chunks]
    text = "".join(choice.delta.content or "" for chunk in parsed for choice in chunk.choices)
    assert text == whole["message"]["content"] != ""
    assert parsed[-2].choices[0].finish_reason == whole["finish_reason"] == "length"


@pytest.mark.parametrize("context", [None, "c"])
@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_leaves_stops_the_decoding(
    process: Process, client: httpx.Client, stream: bool, context: str | None
) -> None:
    before = metric(client, "tokens_decoded_total")
    body = question(stream=stream, context=context, max_tokens=ENDLESS)

    def decoding() -> bool:
        return metric(client, "tokens_decoded_total") > before + 3

    with process.client() as leaving:
        if stream:
            with leaving.stream("POST", "/v1/chat/completions", json=body) as response:
                lines = response.iter_lines()
                until(lambda: "content" in next(lines) and decoding())
        else:
            leaving.timeout = httpx.Timeout(60.0, read=0.3)  # in two seconds it would be done
            with pytest.raises(httpx.ReadTimeout):
                leaving.post("/v1/chat/completions", json=body)
            assert decoding()
    until(lambda: metric(client, "running") == 0)
    decoded = metric(client, "tokens_decoded_total")
    assert decoded < before + ENDLESS - 1
    assert client.post("/v1/chat/completions", json=question(max_tokens=1)).status_code == 200
    assert metric(client, "tokens_decoded_total") <= decoded + 16, "one step, with what was accepted of a draft"


def test_two_clients_at_once(process: Process, client: httpx.Client) -> None:
    shared = add(client, SOURCE)
    with process.client() as other:
        other.put("/v1/contexts/other")
        theirs = other.post("/v1/contexts/other/chunks", json={"text": SOURCE}).json()
        assert theirs["hash"] == shared["hash"]
        body = question(stream=True, context="c", max_tokens=ENDLESS)
        with client.stream("POST", "/v1/chat/completions", json=body) as response:
            lines = response.iter_lines()
            until(lambda: "content" in next(lines))
            answer = other.post("/v1/chat/completions", json=question(context="other")).json()
        assert answer["usage"]["completion_tokens"] == 12
        assert answer["usage"]["prompt_tokens_details"]["cached_tokens"] >= theirs["tokens"]  # the first client's KV
        other.delete("/v1/contexts/other")


def test_the_engines_own_errors_arrive_typed(client: httpx.Client) -> None:
    first, second, prefix = texts_with_equal_prefix()
    candidates = {add(client, text)["hash"] for text in (first, second)}

    def code(path: str, body: Any) -> tuple[int, str]:
        response = client.post(path, json=body)
        return response.status_code, error_of(response)["code"]

    assert code("/v1/contexts/c/chunks", {"text": ""}) == (400, "empty_chunk")
    assert code("/v1/contexts/nowhere/activate", {"refs": [first]}) == (404, "unknown_context")
    assert code("/v1/contexts/c/activate", {"refs": ["no such source"]}) == (404, "unknown_chunk")
    assert code("/v1/contexts/c/activate", {"refs": [prefix]}) == (409, "ambiguous_chunk")
    assert code("/v1/chat/completions", question(context="nowhere")) == (404, "unknown_context")
    assert code("/v1/chat/completions", question("word " * 5000)) == (413, "context_full")
    assert code("/v1/chat/completions", question("word " * 5000, stream=True)) == (413, "context_full")
    assert code("/v1/chat/completions", question(temperature=-1)) == (400, "invalid_request")
    assert code("/v1/chat/completions", {"messages": [{"role": "assistant", "content": "x"}]}) == (
        400,
        "invalid_request",
    )
    response = client.post("/v1/contexts/c/activate", json={"refs": [prefix]})
    assert set(error_of(response)["data"]["candidates"]) == candidates


def test_every_change_of_a_context(client: httpx.Client) -> None:
    a, b = add(client, "alpha\n", source="a"), add(client, "beta\n", source="b", tags=["t"])

    def post(action: str, body: Any) -> Any:
        response = client.post(f"/v1/contexts/c/{action}", json=body)
        assert response.status_code == 200, response.text
        return response.json()

    assert [chunk["active"] for chunk in post("deactivate", {"refs": ["a", "b"]})["chunks"]] == [False, False]
    assert [chunk["hash"] for chunk in post("activate", {"refs": [a["hash"][:8]]})["chunks"]] == [a["hash"]]
    order = post("move", {"ref": "b", "position": 0})["chunks"]
    assert [chunk["hash"] for chunk in order] == [b["hash"], a["hash"]]
    assert set(post("tag", {"ref": "a", "tags": ["x"]})["tags"]) == {"x"}
    assert post("untag", {"ref": "b", "tags": ["t"]})["tags"] == []
    composed = post("compose", {"refs": ["a", "b"], "name": "both"})
    assert composed["parts"] == [a["hash"], b["hash"]]
    assert client.get("/v1/contexts/c").json()["active_tokens"] == a["tokens"] + b["tokens"]
    assert post("delete", {"refs": ["both"]}) == {"deleted": [composed["hash"]]}
    assert post("remove_source", {"source": "a"}) == {}
    assert [chunk["hash"] for chunk in client.get("/v1/contexts/c/chunks").json()["chunks"]] == [b["hash"]]
    assert post("clear", {"scope": "outputs"}) == {}
    assert post("clear", {}) == {}
    assert client.get("/v1/contexts/c").json()["active_tokens"] == 0


def test_a_model_that_thinks(tmp_path: Path) -> None:
    model = make_thinking_model(tmp_path / "model")
    with started(tmp_path / "run", *arguments(model=model), module=REAL) as process:
        process.until_status("ready")
        body = question(max_tokens=50)
        with process.client() as client:
            answer = client.post("/v1/chat/completions", json=body).json()
            with client.stream("POST", "/v1/chat/completions", json=body | {"stream": True}) as response:
                chunks = chat_chunks(response.iter_lines())
    message = answer["choices"][0]["message"]
    assert (message["reasoning_content"], message["content"]) == (THOUGHT, ANSWER)
    assert 0 < answer["usage"]["completion_tokens_details"]["reasoning_tokens"] < answer["usage"]["completion_tokens"]
    deltas = [choice["delta"] for chunk in chunks for choice in chunk["choices"]]
    for field, text in (("reasoning_content", THOUGHT), ("content", ANSWER)):
        assert "".join(delta.get(field, "") for delta in deltas) == text


def test_pinned_chunks_and_fixed_order_keep_their_places(client: httpx.Client) -> None:
    def names() -> list[str]:
        """Once an exact answer has settled the order."""
        asked = {
            "messages": [{"role": "user", "content": "Why?"}],
            "fidelity": "exact",
            "context": "c",
            "max_tokens": 1,
        }
        assert client.post("/v1/chat/completions", json=asked).status_code == 200
        chunks = client.get("/v1/contexts/c/chunks").json()["chunks"]
        return [chunk["name"] for chunk in chunks if chunk["kind"] == "file"]

    for source in "abc":
        add(client, f"text of {source}", source=source)
    client.post("/v1/contexts/c/pin", json={"refs": ["a"]})
    assert add(client, "new text of a", source="a")["pinned"] is True
    add(client, "new text of b", source="b")
    assert names() == ["a", "c", "b"]
    client.put("/v1/contexts/c", json={"order": "fixed"})
    add(client, "new text of c", source="c")
    assert names() == ["a", "c", "b"]


@pytest.mark.parametrize("fidelity", ["exact", "auto", "instant"])
def test_every_fidelity_plans_and_answers(client: httpx.Client, fidelity: str) -> None:
    add(client, SOURCE, source="area.py")
    asked = {"messages": [{"role": "user", "content": "Why?"}], "fidelity": fidelity, "latency_budget_ms": 0}
    plan = client.post("/v1/contexts/c/plan", json=asked).json()
    assert plan["mode"] in (["exact"] if fidelity == "exact" else ["exact", "instant"])
    answer = client.post("/v1/chat/completions", json=asked | {"context": "c", "max_tokens": 2}).json()
    assert answer["ctx"]["usage"]["prompt_tokens"] == plan["tokens"]


def test_a_signal_in_the_midst_of_an_answer(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    with started(folder, *arguments(max_context=2048), module=REAL) as process:
        process.until_status("ready")
        body = question(stream=True, max_tokens=1900)
        with process.client() as client, client.stream("POST", "/v1/chat/completions", json=body) as response:
            events = sse_events(response.iter_lines())
            until(lambda: "content" in next(events)[1])
            os.kill(process.popen.pid, signal.SIGTERM)
            *_, (_name, error), (_name, last) = events
        assert json.loads(error)["error"]["code"] == "engine_stopped"
        assert last == "[DONE]"
        assert process.wait() == 0, process.log.read_text()
    assert list(folder.glob("*.json")) == []


def test_a_model_that_does_not_exist(tmp_path: Path) -> None:
    model = tmp_path / "no" / "such" / "model"
    with started(tmp_path / "run", *arguments(model=model, idle_timeout=3), module=REAL) as process:
        health = process.until_status("failed")
        assert str(model) in health["message"]
        with process.client() as client:
            response = client.post("/v1/chat/completions", json=question())
            assert (response.status_code, error_of(response)["code"]) == (503, "engine_failed")
            assert error_of(response)["data"] == {"cause": "model_not_found"}
        assert process.wait() == 1
        assert health["message"] in process.log.read_text()

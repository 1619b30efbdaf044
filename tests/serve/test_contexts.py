"""Every route of contexts and chunks: what it does on the facade, what it answers, and each typed error."""

from __future__ import annotations

import hashlib
from typing import Any

import pytest

from tests.serve.fake_engine import FakeEngine, texts_with_equal_prefix
from tests.serve.serving import Served, error_of

CHUNK_FIELDS = {
    "hash",
    "kind",
    "name",
    "sources",
    "tags",
    "parts",
    "active",
    "tokens",
    "warm_tokens",
    "fidelity",
    "pinned",
}


@pytest.fixture
def served(served: Served) -> Served:
    served.put()
    return served


def listed(served: Served) -> list[dict[str, Any]]:
    chunks = served.client.get("/v1/contexts/c/chunks").json()["chunks"]
    assert isinstance(chunks, list)
    return chunks


def test_a_context_is_made_described_and_dropped(served: Served, engine: FakeEngine) -> None:
    empty = {"id": "d é-1", "chunks": [], "active_tokens": 0, "limit": 1000}
    assert served.client.put("/v1/contexts/d é-1").json() == empty
    assert served.client.get("/v1/contexts/d é-1").json() == empty
    assert served.client.delete("/v1/contexts/d é-1").json() == {}
    response = served.client.get("/v1/contexts/d é-1")
    assert (response.status_code, error_of(response)["code"]) == (404, "unknown_context")


def test_making_a_context_twice_keeps_it(served: Served, engine: FakeEngine) -> None:
    added = served.add("some text")
    assert served.client.put("/v1/contexts/c", json={"instructions": "be brief"}).json()["chunks"] == [added]
    assert served.client.put("/v1/contexts/c", json={}).json()["chunks"] == [added]
    assert engine.get_context("c").instructions == "be brief"
    served.client.put("/v1/contexts/c", json={"order": "fixed"})
    served.client.put("/v1/contexts/c", json={"instructions": "be long"})
    assert (engine.get_context("c").instructions, engine.get_context("c").order) == ("be long", "fixed")
    response = served.client.put("/v1/contexts/c", json={"order": "random"})
    assert (response.status_code, error_of(response)["param"]) == (400, "order")


def test_adding_chunks(served: Served) -> None:
    text = "def f():\n    return 'ü'\n"
    added = served.add(text, source="src/a.py", tags=["t"], kind="selection", active=False)
    assert set(added) == CHUNK_FIELDS
    assert added["hash"] == hashlib.sha256(text.encode()).hexdigest()
    assert (added["kind"], added["sources"], added["tags"]) == ("selection", ["src/a.py"], ["t"])
    assert added["active"] is False
    plain = served.add("plain text here")
    assert (plain["kind"], plain["active"], plain["fidelity"]) == ("file", True, "cold")
    assert listed(served) == [added, plain]
    assert served.client.get("/v1/contexts/c").json()["active_tokens"] == plain["tokens"] == 3


@pytest.mark.parametrize("source", ["src/a b/ü.py", "/abs/path.py", "untitled:Untitled-1", "a?b#c%d.py"])
def test_a_chunk_by_any_ref(served: Served, source: str) -> None:
    from urllib.parse import quote

    added = served.add("text", source=source)
    for ref in (added["hash"], added["hash"][:8], source):
        response = served.client.get(f"/v1/contexts/c/chunks/{quote(ref, safe='')}")
        assert response.json() == added | {"text": "text"}
    if "?" not in source:
        assert served.client.get(f"/v1/contexts/c/chunks/{source}").json()["hash"] == added["hash"]


def test_activity_and_order(served: Served) -> None:
    first, second, third = (served.add(text) for text in ("one", "two", "three"))
    refs = [first["hash"], second["hash"][:10]]
    off = served.post("/v1/contexts/c/deactivate", {"refs": refs}).json()["chunks"]
    assert [(chunk["hash"], chunk["active"]) for chunk in off] == [(first["hash"], False), (second["hash"], False)]
    on = served.post("/v1/contexts/c/activate", {"refs": refs[:1]}).json()["chunks"]
    assert on == [first]
    order = served.post("/v1/contexts/c/move", {"ref": third["hash"], "position": 0}).json()["chunks"]
    assert [chunk["hash"] for chunk in order] == [third["hash"], first["hash"], second["hash"]]
    assert listed(served) == order


def test_pinning(served: Served) -> None:
    first, second = served.add("one", source="a"), served.add("two", source="b")
    pinned = served.post("/v1/contexts/c/pin", {"refs": ["a"]}).json()["chunks"]
    assert pinned == [first | {"pinned": True}]
    assert listed(served) == [first | {"pinned": True}, second]
    assert served.post("/v1/contexts/c/unpin", {"refs": ["a"]}).json()["chunks"] == [first]


def test_tags_composition_and_removal(served: Served) -> None:
    first, second = served.add("one", source="a"), served.add("two", source="b")
    assert served.post("/v1/contexts/c/tag", {"ref": "a", "tags": ["x", "y"]}).json()["tags"] == ["x", "y"]
    assert served.post("/v1/contexts/c/untag", {"ref": "a", "tags": ["x"]}).json()["tags"] == ["y"]
    composed = served.post("/v1/contexts/c/compose", {"refs": ["b", "a"], "name": "both"}).json()
    assert (composed["kind"], composed["parts"]) == ("composition", [second["hash"], first["hash"]])
    assert served.post("/v1/contexts/c/delete", {"refs": ["both"]}).json() == {"deleted": [composed["hash"]]}
    assert served.post("/v1/contexts/c/remove_source", {"source": "a"}).json() == {}
    assert [chunk["hash"] for chunk in listed(served)] == [second["hash"]]


def test_clearing(served: Served) -> None:
    kept = served.add("a file")
    served.add("an answer", kind="output")
    assert served.post("/v1/contexts/c/clear", {"scope": "outputs"}).json() == {}
    assert listed(served) == [kept]
    assert served.post("/v1/contexts/c/clear").json() == {}
    assert listed(served) == []


def test_plans(served: Served, engine: FakeEngine) -> None:
    added = served.add("three words here", source="a")
    chunk = {"hash": added["hash"], "name": "a", "tokens": 3, "reused": 0, "prefill": 3, "fidelity": "cold"}
    expected = {"tokens": 5, "reused": 0, "prefill": 5, "limit": 1000, "chunks": [chunk]} | {
        "mode": "exact",
        "time_to_first_token": None,
    }
    assert served.post("/v1/contexts/c/plan", {"messages": "two words"}).json() == expected
    messages = [{"role": "user", "content": "two words"}]
    asked = {"messages": messages, "fidelity": "instant", "latency_budget_ms": 1500}
    assert served.post("/v1/contexts/c/plan", asked).json() == expected
    assert engine.plans == [("auto", None), ("instant", 1.5)]
    assert served.post("/v1/contexts/c/populate").json()["tokens"] == 3
    assert served.post("/v1/contexts/c/populate", {"refs": ["a"]}).json()["tokens"] == 3


def test_the_prompt_as_the_model_sees_it(served: Served, engine: FakeEngine) -> None:
    served.add("some text", source="a")
    assert served.post("/v1/contexts/c/prompt", {"messages": "Who?"}).json() == {"text": "some text|Who?"}
    turns = [{"role": role, "content": role[0]} for role in ("user", "assistant", "user")]
    asked = {"messages": turns, "fidelity": "exact", "latency_budget_ms": 500}
    assert served.post("/v1/contexts/c/prompt", asked).json() == {"text": "some text|u|a|u"}
    assert engine.plans == [("auto", None), ("exact", 0.5)]


def test_background_prefill_can_be_stopped(served: Served) -> None:
    assert served.post("/v1/contexts/c/stop_populating", {}).json() == {}
    assert served.client.post("/v1/contexts/c/stop_populating").json() == {}


ROUTES: list[tuple[str, dict[str, Any]]] = [
    ("chunks", {"text": "x"}),
    ("activate", {"refs": ["abcd"]}),
    ("deactivate", {"refs": ["abcd"]}),
    ("pin", {"refs": ["abcd"]}),
    ("unpin", {"refs": ["abcd"]}),
    ("delete", {"refs": ["abcd"]}),
    ("move", {"ref": "abcd", "position": 0}),
    ("compose", {"refs": ["abcd"], "name": "n"}),
    ("tag", {"ref": "abcd", "tags": ["t"]}),
    ("untag", {"ref": "abcd", "tags": ["t"]}),
    ("remove_source", {"source": "abcd"}),
    ("clear", {"scope": "all"}),
    ("populate", {"refs": ["abcd"]}),
    ("stop_populating", {}),
    ("plan", {"messages": "x"}),
    ("prompt", {"messages": "x"}),
]
WITH_REFS = [route for route in ROUTES if {"ref", "refs", "source"} & set(route[1])]


@pytest.mark.parametrize(("action", "body"), ROUTES)
def test_an_unknown_context(served: Served, action: str, body: dict[str, Any]) -> None:
    response = served.post(f"/v1/contexts/nowhere/{action}", body)
    assert (response.status_code, error_of(response)["code"]) == (404, "unknown_context")


@pytest.mark.parametrize("method", ["GET", "DELETE"])
@pytest.mark.parametrize("path", ["", "/chunks", "/chunks/abcd"])
def test_reading_an_unknown_context(served: Served, method: str, path: str) -> None:
    if method == "DELETE" and path:
        return
    response = served.client.request(method, f"/v1/contexts/nowhere{path}")
    assert (response.status_code, error_of(response)["code"]) == (404, "unknown_context")


@pytest.mark.parametrize(("action", "body"), WITH_REFS)
def test_an_unknown_chunk(served: Served, action: str, body: dict[str, Any]) -> None:
    response = served.post(f"/v1/contexts/c/{action}", body)
    assert (response.status_code, error_of(response)["code"]) == (404, "unknown_chunk")


def test_an_ambiguous_prefix(served: Served) -> None:
    first, second, prefix = texts_with_equal_prefix()
    candidates = {served.add(text)["hash"] for text in (first, second)}
    for response in (
        served.post("/v1/contexts/c/activate", {"refs": [prefix]}),
        served.client.get(f"/v1/contexts/c/chunks/{prefix}"),
    ):
        assert (response.status_code, error_of(response)["code"]) == (409, "ambiguous_chunk")
        assert set(error_of(response)["data"]["candidates"]) == candidates


def test_an_empty_chunk(served: Served) -> None:
    response = served.post("/v1/contexts/c/chunks", {"text": ""})
    assert (response.status_code, error_of(response)["code"]) == (400, "empty_chunk")


def test_a_full_context(served: Served) -> None:
    served.add("word " * 2000)
    response = served.ask(context="c")
    assert (response.status_code, error_of(response)["code"]) == (413, "context_full")
    assert error_of(response)["data"]["limit"] == 1000


BAD_BODIES: list[tuple[str, Any, str | None]] = [
    ("chunks", {}, "text"),
    ("chunks", {"text": 3}, "text"),
    ("chunks", {"text": "x", "kind": "composition"}, "kind"),
    ("chunks", {"text": "x", "source": ""}, "source"),
    ("chunks", {"text": "x", "tags": "t"}, "tags"),
    ("chunks", {"text": "x", "active": "yes"}, "active"),
    ("chunks", {"text": "x", "actve": True}, "actve"),
    ("chunks", [], None),
    ("chunks", None, None),
    ("activate", {"refs": []}, "refs"),
    ("activate", {"refs": "abcd"}, "refs"),
    ("deactivate", {"refs": [""]}, "refs[0]"),
    ("delete", {"refs": [1]}, "refs[0]"),
    ("move", {"ref": "abcd"}, "position"),
    ("move", {"ref": "abcd", "position": -1}, "position"),
    ("move", {"ref": "abcd", "position": 1.5}, "position"),
    ("compose", {"refs": ["abcd"]}, "name"),
    ("tag", {"ref": "abcd", "tags": []}, "tags"),
    ("remove_source", {"source": None}, "source"),
    ("clear", {"scope": "some"}, "scope"),
    ("populate", {"refs": []}, "refs"),
    ("plan", {"messages": []}, "messages"),
    ("prompt", {"messages": []}, "messages"),
    ("plan", {"messages": [{"role": "user"}]}, "messages[0].content"),
]


@pytest.mark.parametrize(("action", "body", "param"), BAD_BODIES)
def test_bad_bodies_are_explained(served: Served, action: str, body: Any, param: str | None) -> None:
    response = served.post(f"/v1/contexts/c/{action}", body)
    assert response.status_code == 400
    error = error_of(response)
    assert (error["code"], error["param"]) == ("invalid_request", param)
    assert (param or "body") in error["message"]


@pytest.mark.parametrize("context", ["x" * 201, "%00", "a%0Ab"])
def test_bad_context_ids(served: Served, context: str) -> None:
    response = served.client.put(f"/v1/contexts/{context}")
    assert (response.status_code, error_of(response)["code"]) == (400, "invalid_request")


def test_half_a_character_is_refused(served: Served) -> None:
    headers = {"Content-Type": "application/json"}
    response = served.client.post("/v1/contexts/c/chunks", content=b'{"text": "\\ud800"}', headers=headers)
    assert (response.status_code, error_of(response)["code"]) == (400, "invalid_request")
    assert (
        served.client.post("/v1/contexts/c/chunks", content=b'{"text": "\\ud83d\\ude00"}', headers=headers).json()[
            "hash"
        ]
        == hashlib.sha256("\N{GRINNING FACE}".encode()).hexdigest()
    )


def test_a_defect_is_an_error_like_any_other(
    served: Served, engine: FakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(id: str) -> None:
        raise KeyError(id)

    with monkeypatch.context() as patch:
        patch.setattr(engine, "get_context", fail)
        response = served.client.get("/v1/contexts/c")
    assert (response.status_code, error_of(response)["code"]) == (500, "internal_error")
    assert "KeyError" in error_of(response)["message"]
    assert served.client.get("/v1/contexts/c").status_code == 200


def test_the_routes_describe_themselves(served: Served) -> None:
    paths = served.client.get("/openapi.json").json()["paths"]
    assert set(paths["/v1/contexts/{id}"]) == {"get", "put", "delete"}


def test_two_clients_share_an_engine_but_not_their_contexts(served: Served) -> None:
    with served.new_client() as other:
        other.put("/v1/contexts/other")
        other.post("/v1/contexts/other/chunks", json={"text": "theirs"})
        mine = served.add("mine")
        assert [chunk["hash"] for chunk in listed(served)] == [mine["hash"]]
        assert len(other.get("/v1/contexts/other").json()["chunks"]) == 1

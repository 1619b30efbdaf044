"""The process while its engine comes to life: /health at once, typed refusals, failure that says why, the end."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from typing import Any, cast

import pytest

from engine import __version__
from engine.errors import EngineBusyError, EngineError, ModelNotFoundError
from engine.serve.errors import EngineFailedError, EngineLoadingError
from engine.serve.loading import EngineHost, Progress
from tests.serve.fake_engine import FakeEngine
from tests.serve.serving import Served, error_of, serving, until


class SlowLoad:
    """A factory that reports, then waits to be released, then delivers or raises."""

    def __init__(self, outcome: FakeEngine | BaseException) -> None:
        self.outcome = outcome
        self.reported = threading.Event()
        self.release = threading.Event()

    def __call__(self, progress: Progress) -> FakeEngine:
        progress("fetching the model", 0.25)
        self.reported.set()
        self.release.wait()
        if isinstance(self.outcome, BaseException):
            raise self.outcome
        return self.outcome


@pytest.fixture
def engine() -> FakeEngine:
    return FakeEngine()


ENGINE_CALLS: list[Callable[[Served], Any]] = [
    lambda served: served.ask(),
    lambda served: served.ask(stream=True),
    lambda served: served.client.get("/v1/models"),
    lambda served: served.client.put("/v1/contexts/c"),
    lambda served: served.client.get("/v1/contexts/c"),
    lambda served: served.client.delete("/v1/contexts/c"),
    lambda served: served.post("/v1/contexts/c/chunks", {"text": "x"}),
    lambda served: served.post("/v1/contexts/c/populate"),
]


def test_health_while_the_model_loads(engine: FakeEngine) -> None:
    engine.exact_only = "its positions depend on the prompt's length"
    load = SlowLoad(engine)
    with serving(engine, load, ready=False) as served:
        assert load.reported.wait(60)
        health = served.client.get("/health").json()
        assert [stage.pop("message") for stage in health["stages"]] == ["starting"]
        assert health == {
            "status": "loading",
            "message": "fetching the model",
            "progress": 0.25,
            "model": "fake-model",
            "device": None,
            "dtype": None,
            "max_context": None,
            "exact_only": None,
            "stages": [{"seconds": health["stages"][0]["seconds"]}],
            "pid": os.getpid(),
            "version": __version__,
        }
        for call in ENGINE_CALLS:
            response = call(served)
            assert (response.status_code, error_of(response)["code"]) == (503, "engine_loading")
            assert error_of(response)["data"] == {"progress": 0.25}
            assert response.headers["retry-after"] == "1"
        assert "ctx_engine_ready 0.0" in served.client.get("/metrics").text
        load.release.set()
        until(lambda: served.client.get("/health").json()["status"] == "ready")
        health = served.client.get("/health").json()
        assert (health["device"], health["dtype"], health["max_context"]) == ("cpu", "float32", 1000)
        assert [stage["message"] for stage in health["stages"]] == ["starting", "fetching the model"]
        assert health["exact_only"] == "its positions depend on the prompt's length"
        assert served.ask().status_code == 200


@pytest.mark.parametrize(
    ("error", "cause", "sentence"),
    [
        (ModelNotFoundError("there is no model 'nix'"), "model_not_found", "there is no model 'nix'"),
        (RuntimeError("no driver"), "engine_error", "RuntimeError: no driver"),
        (MemoryError(), "engine_error", "MemoryError"),
        (SystemExit(3), "engine_error", "SystemExit: 3"),
    ],
)
def test_a_model_that_fails_to_load(engine: FakeEngine, error: BaseException, cause: str, sentence: str) -> None:
    load = SlowLoad(error)
    load.release.set()
    with serving(engine, load, ready=False) as served:
        until(lambda: served.client.get("/health").json()["status"] == "failed")
        assert sentence in served.client.get("/health").json()["message"]
        for call in ENGINE_CALLS:
            response = call(served)
            assert (response.status_code, error_of(response)["code"]) == (503, "engine_failed")
            assert sentence in error_of(response)["message"]
            assert error_of(response)["data"] == {"cause": cause}


def test_events_can_be_awaited_while_the_model_loads(engine: FakeEngine) -> None:
    load = SlowLoad(engine)
    with (
        serving(engine, load, ready=False) as served,
        served.client.stream("GET", "/v1/events?context=c") as stream,
        served.new_client() as other,
    ):
        lines = stream.iter_lines()
        assert next(lines) == ": listening"
        load.release.set()
        until(lambda: other.put("/v1/contexts/c").status_code == 200)
        other.post("/v1/contexts/c/chunks", json={"text": "x"})
        until(lambda: next(lines) == "event: chunks_changed")


def test_shutdown_ends_the_server() -> None:
    with serving(FakeEngine()) as served:
        with served.client.stream("GET", "/v1/events?context=c") as stream:
            lines = stream.iter_lines()
            next(lines)
            with served.new_client() as other:
                assert other.post("/v1/shutdown").json() == {"status": "stopping"}
            assert list(lines) == [""]  # the stream ended by itself, in order
        served.thread.join(60)
        assert not served.thread.is_alive()


def test_stats(served: Served) -> None:
    served.put()
    served.ask(max_tokens=2)
    stats = served.client.get("/v1/stats").json()
    assert (stats["tokens_decoded"], stats["contexts"], stats["running"]) == (2, 1, 0)


def test_metrics(served: Served) -> None:
    served.put()
    served.ask(max_tokens=2)
    lines = served.client.get("/metrics").text.splitlines()
    assert "ctx_engine_ready 1.0" in lines
    assert "ctx_engine_clients 1.0" in lines
    assert "ctx_engine_tokens_decoded_total 2.0" in lines
    assert "ctx_engine_contexts 1.0" in lines


def make_host(factory: Callable[[Progress], FakeEngine]) -> EngineHost:
    return EngineHost(cast(Any, factory), "fake-model")


def test_an_engine_that_arrives_after_the_end_is_closed(engine: FakeEngine) -> None:
    load = SlowLoad(engine)
    host = make_host(load)
    host.start(on_ready=lambda _engine: None)
    assert load.reported.wait(60)
    with pytest.raises(EngineLoadingError):
        host.engine()
    host.close()
    assert host.loading
    load.release.set()
    assert engine.closed.wait(60)
    with pytest.raises(EngineBusyError):
        host.engine()
    assert host.health().status == "stopped"


def test_closing_closes_the_engine(engine: FakeEngine) -> None:
    host = make_host(lambda progress: engine)
    ready = threading.Event()
    host.start(on_ready=lambda _engine: ready.set())
    until(lambda: host.health().status == "ready")
    assert ready.is_set()
    assert cast(Any, host.engine()) is engine
    host.close()
    host.close()
    assert engine.closed.is_set()
    assert not host.failed


def test_a_failure_is_remembered_after_the_end() -> None:
    load = SlowLoad(EngineError("no"))
    load.release.set()
    host = make_host(load)
    host.start(on_ready=lambda _engine: None)
    until(lambda: host.failed)
    with pytest.raises(EngineFailedError):
        host.engine()
    host.close()
    assert host.failed
    with pytest.raises(EngineBusyError):
        host.engine()

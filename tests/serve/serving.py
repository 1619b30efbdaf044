"""Serve a fake engine over a real socket from a thread of the test, and talk to it.

Knows no test; `conftest` makes fixtures of it.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

import httpx

from engine.serve.loading import EngineHost, Progress
from engine.serve.server import Server, address, bind
from engine.serve.services import Settings
from tests.serve.fake_engine import FakeEngine

TOKEN = "a-token"
PATIENCE = 60.0  # seconds; how long a condition may take on a busy machine

Factory = Callable[[Progress], FakeEngine]


@dataclass
class Served:
    """A running server and a client that is let in."""

    server: Server
    engine: FakeEngine
    client: httpx.Client
    thread: threading.Thread

    @property
    def url(self) -> str:
        return str(self.client.base_url)

    def new_client(self) -> httpx.Client:
        return httpx.Client(base_url=self.url, headers=self.client.headers, timeout=PATIENCE, trust_env=False)

    def put(self, context: str = "c") -> None:
        assert self.client.put(f"/v1/contexts/{context}").status_code == 200

    def post(self, path: str, body: Any = None) -> httpx.Response:
        return self.client.post(path, json=body)

    def add(self, text: str, context: str = "c", **fields: Any) -> dict[str, Any]:
        response = self.post(f"/v1/contexts/{context}/chunks", {"text": text, **fields})
        assert response.status_code == 200, response.text
        return cast(dict[str, Any], response.json())

    def ask(self, text: str = "why?", **fields: Any) -> httpx.Response:
        return self.post("/v1/chat/completions", chat_body(text, **fields))


def chat_body(text: str = "why?", **fields: Any) -> dict[str, Any]:
    return {"model": "fake-model", "messages": [{"role": "user", "content": text}], **fields}


@contextmanager
def serving(
    engine: FakeEngine, factory: Factory | None = None, *, ready: bool = True, **settings: Any
) -> Iterator[Served]:
    """Run a server in a thread. `factory` replaces the one that returns `engine` at once."""
    host = EngineHost(cast(Any, factory or (lambda progress: engine)), "fake-model")
    server = Server(host, Settings(TOKEN, **settings))
    listener = bind()
    url = address(listener)
    thread = threading.Thread(target=lambda: server.run(sockets=[listener]), daemon=True)
    thread.start()
    headers = {"Authorization": f"Bearer {TOKEN}"}
    with httpx.Client(base_url=url, headers=headers, timeout=PATIENCE, trust_env=False) as client:
        served = Served(server, engine, client, thread)
        try:
            if ready:
                until(lambda: client.get("/health").json()["status"] == "ready")
            yield served
        finally:
            server.end()
            thread.join(PATIENCE)
            host.close()
            assert not thread.is_alive()


def until(condition: Callable[[], object], patience: float = PATIENCE) -> None:
    """Wait for something to become true."""
    deadline = time.monotonic() + patience
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.01)


def error_of(response: httpx.Response) -> dict[str, Any]:
    """The error of a failed response, whose shape is checked on the way."""
    body = response.json()
    assert response.status_code >= 400
    assert set(body) == {"error"}
    error = body["error"]
    assert set(error) == {"code", "type", "message", "param", "data"}
    assert error["type"] == error["code"]
    assert error["message"]
    return cast(dict[str, Any], error)


def sse_events(lines: Iterator[str]) -> Iterator[tuple[str | None, str]]:
    """(event name, data) of each server-sent event; comments come as (":", text)."""
    name, data = None, ""
    for line in lines:
        if line.startswith(":"):
            yield ":", line[1:].strip()
        elif line.startswith("event: "):
            name = line.removeprefix("event: ")
        elif line.startswith("data: "):
            data = line.removeprefix("data: ")
        elif not line and data:
            yield name, data
            name, data = None, ""


def chat_chunks(lines: Iterator[str]) -> list[dict[str, Any]]:
    """All chunks of a streamed answer, which must end with [DONE]."""
    data = [data for _name, data in sse_events(lines)]
    assert data[-1] == "[DONE]"
    return [json.loads(item) for item in data[:-1]]

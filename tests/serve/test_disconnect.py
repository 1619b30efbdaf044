"""A client that goes away ends its answer: no more tokens are computed, whatever it was waiting for."""

from __future__ import annotations

import json
import random
import socket
import threading
from collections.abc import Iterator
from contextlib import suppress

import httpx
import pytest

from tests.serve.fake_engine import ENDLESS, FakeEngine, Script
from tests.serve.serving import TOKEN, Served, chat_body, serving, until


@pytest.fixture
def engine() -> FakeEngine:
    return FakeEngine(script=Script(words=ENDLESS, pause=0.001))


@pytest.fixture
def served(engine: FakeEngine) -> Iterator[Served]:
    with serving(engine) as served:
        yield served


def assert_stopped(served: Served, engine: FakeEngine) -> None:
    """The computing thread has ended; nothing can decode any more, and nothing is left of the request."""
    until(lambda: not engine.running)
    decoded = engine.stats().tokens_decoded
    assert served.client.get("/health").status_code == 200
    assert engine.stats().tokens_decoded == decoded
    until(lambda: len(served.server.services.answers) == 0)
    until(lambda: served.server.services.attendance.clients.here == 0)


def request_bytes(*, stream: bool) -> bytes:
    body = json.dumps(chat_body(stream=stream))
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {TOKEN}\r\n"
    return (head + f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n" + body).encode()


@pytest.fixture
def raw(served: Served) -> Iterator[socket.socket]:
    url = httpx.URL(served.url)
    with socket.create_connection((url.host, url.port), timeout=60) as connection:
        yield connection


@pytest.mark.parametrize("context", [None, "c"])
def test_leaving_a_stream(served: Served, engine: FakeEngine, context: str | None) -> None:
    served.put()
    body = chat_body(stream=True, context=context)
    with served.client.stream("POST", "/v1/chat/completions", json=body) as response:
        lines = response.iter_lines()
        until(lambda: "content" in next(lines) and engine.decoded > 5)
        assert engine.running
    assert_stopped(served, engine)


def test_leaving_before_a_whole_answer_is_there(served: Served, engine: FakeEngine, raw: socket.socket) -> None:
    raw.sendall(request_bytes(stream=False))
    until(lambda: engine.decoded > 5)
    assert engine.running
    raw.close()
    assert_stopped(served, engine)


@pytest.mark.parametrize("stream", [True, False])
def test_leaving_before_the_first_token(served: Served, engine: FakeEngine, raw: socket.socket, stream: bool) -> None:
    engine.script.proceed.clear()  # a long prefill
    raw.sendall(request_bytes(stream=stream))
    assert engine.script.opened.wait(60)
    assert engine.running
    raw.close()
    assert_stopped(served, engine)
    assert engine.decoded == 0


def test_half_closing_is_leaving(served: Served, engine: FakeEngine, raw: socket.socket) -> None:
    raw.sendall(request_bytes(stream=True))
    until(lambda: engine.decoded > 5)
    raw.shutdown(socket.SHUT_RDWR)
    assert_stopped(served, engine)


def test_a_reader_that_stalls_holds_up_nobody(served: Served, engine: FakeEngine, raw: socket.socket) -> None:
    raw.sendall(request_bytes(stream=True))
    until(lambda: engine.decoded > 5)  # and now read nothing
    engine.script.pause = 0.0
    until(lambda: engine.decoded > 20_000)
    assert served.ask(max_tokens=3).json()["choices"][0]["finish_reason"] == "length"
    raw.close()
    assert_stopped(served, engine)


def test_one_leaves_the_other_stays(served: Served, engine: FakeEngine, raw: socket.socket) -> None:
    raw.sendall(request_bytes(stream=False))
    until(lambda: len(engine.running) == 1)
    leaving = next(iter(engine.running))
    with served.client.stream("POST", "/v1/chat/completions", json=chat_body(stream=True)) as response:
        until(lambda: len(engine.running) == 2)
        raw.close()
        until(lambda: leaving not in engine.running)
        assert len(engine.running) == 1
        lines = response.iter_lines()
        seen = engine.decoded
        until(lambda: next(lines) is not None and engine.decoded > seen + 5)
    assert_stopped(served, engine)


def test_shutting_down_ends_running_answers_with_an_error(served: Served, engine: FakeEngine) -> None:
    body = chat_body(stream=True)
    with served.client.stream("POST", "/v1/chat/completions", json=body) as response:
        lines = response.iter_lines()
        until(lambda: "content" in next(lines) and engine.decoded > 5)
        served.server.end()
        rest = [line for line in lines if line]
    assert '"engine_stopped"' in rest[-2]
    assert rest[-1] == "data: [DONE]"
    until(lambda: not engine.running)


def test_many_that_come_and_go_leave_nothing_behind(served: Served, engine: FakeEngine) -> None:
    served.put()
    services = served.server.services

    def come_and_go(seed: int) -> None:
        dice = random.Random(seed)
        url = httpx.URL(served.url)
        for _ in range(6):
            with socket.create_connection((url.host, url.port), timeout=60) as connection:
                request = request_bytes(stream=dice.random() < 0.5)
                connection.sendall(request if dice.random() < 0.8 else request[: dice.randrange(len(request))])
                for _ in range(dice.randrange(3)):
                    connection.settimeout(dice.random() / 10)
                    with suppress(TimeoutError):
                        connection.recv(1000)

    visitors = [threading.Thread(target=come_and_go, args=(seed,)) for seed in range(20)]
    for visitor in visitors:
        visitor.start()
    for visitor in visitors:
        visitor.join()
    assert_stopped(served, engine)
    assert len(services.hub) == 0
    until(lambda: not any(thread.name == "ctx-engine-answer" for thread in threading.enumerate()))

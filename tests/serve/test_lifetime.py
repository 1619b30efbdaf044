"""Who is here, and what happens when nobody is: contexts are dropped, the server ends. Clocks are set by hand."""

from __future__ import annotations

import asyncio
import math
import threading
from contextlib import suppress
from dataclasses import replace

import httpx
import pytest

from engine.errors import EngineError
from engine.serve.lifetime import Attendance, Housekeeper
from engine.serve.services import FAILED_LINGER
from tests.serve.fake_engine import ENDLESS, FakeEngine, Script
from tests.serve.serving import chat_body, serving, until


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def attendance(clock: Clock) -> Attendance:
    return Attendance(clock)


class House:
    """What a housekeeper did."""

    def __init__(self, attendance: Attendance, timeout: float) -> None:
        self.dropped: list[str] = []
        self.rounds = 0
        self.ended = 0
        self.keeper = Housekeeper(attendance, lambda: timeout, self.drop, self.tidy, self.end)

    async def drop(self, context: str) -> None:
        self.dropped.append(context)

    def tidy(self) -> None:
        self.rounds += 1

    def end(self) -> None:
        self.ended += 1


def test_absence_begins_when_the_last_one_leaves(clock: Clock, attendance: Attendance) -> None:
    clock.now = 5.0
    assert attendance.clients.absence() == 5.0
    with attendance.clients.visit():
        clock.now = 10.0
        with attendance.clients.visit():
            assert attendance.clients.here == 2
        clock.now = 20.0
        assert attendance.clients.absence() == 0.0
    clock.now = 21.0
    assert attendance.clients.absence() == 1.0


async def test_the_house_is_closed_when_nobody_came_for_long(clock: Clock, attendance: Attendance) -> None:
    house = House(attendance, 10.0)
    clock.now = 9.9
    assert not await house.keeper.look()
    with attendance.clients.visit():
        clock.now = 100.0
        assert not await house.keeper.look()
    clock.now = 109.9
    assert not await house.keeper.look()
    assert house.ended == 0
    clock.now = 110.0
    assert await house.keeper.look()
    assert house.ended == 1
    assert house.rounds == 3
    await house.keeper.run()
    assert house.ended == 2


async def test_a_round_that_fails_does_not_stop_the_rounds(clock: Clock, attendance: Attendance) -> None:
    house = House(attendance, 0.1)

    async def fail(context: str) -> None:
        clock.now = 1.0
        raise RuntimeError(context)

    with attendance.use_context("c"), attendance.clients.visit():
        pass
    clock.now = 0.1
    with attendance.clients.visit():
        keeper = replace(house.keeper, drop_context=fail)
        running = asyncio.ensure_future(keeper.run())
        while house.rounds < 2:
            await asyncio.sleep(0.01)
    clock.now = 5.0
    await running
    assert house.ended == 1


async def test_a_context_is_dropped_once_when_nobody_used_it_for_long(clock: Clock, attendance: Attendance) -> None:
    house = House(attendance, 10.0)
    with attendance.clients.visit():
        with attendance.use_context("left"):
            pass
        with attendance.use_context("watched"):
            clock.now = 9.9
            await house.keeper.look()
            assert house.dropped == []
            clock.now = 10.0
            await house.keeper.look()
            await house.keeper.look()
            assert house.dropped == ["left"]
            clock.now = 1000.0
            await house.keeper.look()
            assert house.dropped == ["left"]
        clock.now = 1009.0
        with attendance.use_context("watched"):
            pass
        clock.now = 1018.0
        await house.keeper.look()
        assert house.dropped == ["left"]
        clock.now = 1019.0
        await house.keeper.look()
        assert house.dropped == ["left", "watched"]


async def test_infinite_patience(clock: Clock, attendance: Attendance) -> None:
    house = House(attendance, math.inf)
    with attendance.use_context("c"):
        pass
    clock.now = 1e12
    assert not await house.keeper.look()
    assert house.dropped == []


def test_a_server_without_clients_ends() -> None:
    with serving(FakeEngine(), ready=False, idle_timeout=0.2) as served:
        served.thread.join(60)
        assert not served.thread.is_alive()


def test_an_event_stream_keeps_the_server_and_its_context_alive() -> None:
    engine = FakeEngine()
    with serving(engine, idle_timeout=1.0, heartbeat=0.05) as served:
        served.put("watched")
        served.put("left")
        with served.client.stream("GET", "/v1/events?context=watched") as response:
            lines = response.iter_lines()
            until(lambda: next(lines) is not None and engine.stats().contexts == 1)
            assert engine.get_context("watched")
            assert served.thread.is_alive()
        served.thread.join(60)
        assert not served.thread.is_alive()


def test_a_running_answer_keeps_the_server_and_its_context_alive() -> None:
    engine = FakeEngine(script=Script(words=ENDLESS, pause=0.001))
    with serving(engine, idle_timeout=1.0) as served:
        served.put("asked")
        served.put("left")
        body = chat_body(stream=True, context="asked")
        with served.client.stream("POST", "/v1/chat/completions", json=body) as response:
            lines = response.iter_lines()
            until(lambda: next(lines) is not None and engine.stats().contexts == 1)
            assert engine.get_context("asked")
            assert served.thread.is_alive()
        served.thread.join(60)
        assert not served.thread.is_alive()
    assert not engine.running


def test_strangers_do_not_keep_the_server_alive() -> None:
    with serving(FakeEngine(), idle_timeout=1.0) as served:
        del served.client.headers["Authorization"]
        statuses = set()
        with suppress(httpx.TransportError):  # it may end while we ask
            while served.thread.is_alive():
                statuses.add(served.client.get("/health").status_code)
        served.thread.join(60)
        assert statuses == {401}


def test_a_deleted_context_is_not_looked_after() -> None:
    with serving(FakeEngine()) as served:
        served.put()
        assert served.client.delete("/v1/contexts/c").status_code == 200
        assert served.server.services.attendance.abandoned_contexts(0.0) == []


@pytest.mark.parametrize(("idle", "expected"), [(0.0, FAILED_LINGER), (5.0, 5.0), (3600.0, FAILED_LINGER)])
def test_a_failed_engine_does_not_linger(idle: float, expected: float) -> None:
    failed = threading.Event()

    def fail(_progress: object) -> FakeEngine:
        failed.wait()
        raise EngineError("no such model")

    with serving(FakeEngine(), fail, ready=False, idle_timeout=idle) as served:
        assert served.server.services.idle_timeout() == (idle or math.inf)
        failed.set()
        until(lambda: served.client.get("/health").json()["status"] == "failed")
        assert served.server.services.idle_timeout() == expected

"""Engine events on their way to event streams: filtered, coalesced, bounded; and the mailbox that carries them."""

from __future__ import annotations

import asyncio
import json
import threading

import pytest

from engine.serve.errors import TooManyRequestsError
from engine.serve.events import EventHub
from engine.serve.mailbox import Mailbox
from engine.types import ChunksChanged, PopulateFailed, PopulateProgress
from tests.serve.fake_engine import FakeEngine
from tests.serve.serving import Served, error_of, serving, sse_events, until


async def test_a_mailbox_keeps_the_newest_of_each_key_in_order() -> None:
    mailbox: Mailbox[str] = Mailbox(asyncio.get_running_loop())
    for key, value in [("a", "a1"), ("b", "b1"), ("a", "a2")]:
        mailbox.put(key, value)
    assert await mailbox.take() == ["a2", "b1"]
    mailbox.put("c", "c1")
    mailbox.close()
    mailbox.put("d", "d1")
    assert await mailbox.take() == ["c1"]
    assert await mailbox.take() == []
    assert await mailbox.take() == []


async def test_a_mailbox_loses_nothing_between_threads() -> None:
    mailbox: Mailbox[int] = Mailbox(asyncio.get_running_loop())

    def write() -> None:
        for number in range(20_000):
            mailbox.put(number, number)
        mailbox.close()

    thread = threading.Thread(target=write)
    thread.start()
    received: list[int] = []
    while values := await mailbox.take():
        received += values
    thread.join()
    assert received == list(range(20_000))


async def test_waiting_at_a_mailbox_does_not_spin() -> None:
    mailbox: Mailbox[int] = Mailbox(asyncio.get_running_loop())
    mailbox.put(1, 1)
    assert await mailbox.take() == [1]
    waiting = asyncio.ensure_future(mailbox.take())
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert not waiting.done()
    mailbox.put(2, 2)
    assert await waiting == [2]


def test_a_mailbox_whose_loop_has_ended_takes_no_harm() -> None:
    loop = asyncio.new_event_loop()
    mailbox: Mailbox[int] = Mailbox(loop)
    loop.close()
    mailbox.put(1, 1)
    mailbox.close()


async def test_the_hub_gives_to_each_what_concerns_it() -> None:
    hub = EventHub(limit=4)
    with hub.listen("a") as a, hub.listen(None) as everything, hub.listen("b") as b:
        assert len(hub) == 3
        for done in range(1000):
            hub.publish(PopulateProgress("a", done, 1000))
            hub.publish(ChunksChanged("a"))
        hub.publish(PopulateFailed("b", "out_of_memory", "no room"))
        expected = [PopulateProgress("a", 999, 1000), ChunksChanged("a")]
        assert await a.take() == expected
        assert await b.take() == [PopulateFailed("b", "out_of_memory", "no room")]
        assert await everything.take() == [*expected, PopulateFailed("b", "out_of_memory", "no room")]
    assert len(hub) == 0
    hub.publish(ChunksChanged("a"))


async def test_the_hub_is_bounded_and_ends_its_streams() -> None:
    hub = EventHub(limit=1)
    with hub.listen(None) as stream:
        with pytest.raises(TooManyRequestsError), hub.listen(None):
            pass
        hub.close()
        assert await stream.take() == []
    with hub.listen(None) as late:
        assert await late.take() == []


def test_events_arrive_over_http(served: Served, engine: FakeEngine) -> None:
    served.put()
    served.put("other")
    with served.client.stream("GET", "/v1/events?context=c") as response, served.new_client() as other:
        assert response.headers["content-type"].startswith("text/event-stream")
        events = sse_events(response.iter_lines())
        assert next(events) == (":", "listening")
        other.post("/v1/contexts/other/chunks", json={"text": "not for this stream"})
        other.post("/v1/contexts/c/chunks", json={"text": "two words"})
        assert next(events) == ("chunks_changed", '{"context": "c"}')
        other.post("/v1/contexts/c/populate")
        name, data = next(events)
        progress = {"context": "c", "done": 2, "total": 2, "phase": "populate"}
        assert (name, json.loads(data)) == ("populate_progress", progress)
        engine.emit(PopulateProgress("c", 1, 2, "refine"))
        name, data = next(events)
        assert (name, json.loads(data)) == ("populate_progress", progress | {"done": 1, "phase": "refine"})
        engine.emit(PopulateFailed("c", "out_of_memory", "no room"))
        name, data = next(events)
        assert (name, json.loads(data)["code"]) == ("populate_failed", "out_of_memory")


def test_a_stream_of_all_contexts(served: Served, engine: FakeEngine) -> None:
    with served.client.stream("GET", "/v1/events") as response:
        events = sse_events(response.iter_lines())
        next(events)
        engine.emit(ChunksChanged("one"))
        engine.emit(ChunksChanged("two"))
        assert {next(events)[1], next(events)[1]} == {'{"context": "one"}', '{"context": "two"}'}


def test_a_flood_is_coalesced_and_its_last_event_arrives(served: Served, engine: FakeEngine) -> None:
    count = 50_000
    with served.client.stream("GET", "/v1/events?context=c") as response:
        events = sse_events(response.iter_lines())
        next(events)
        for done in range(1, count + 1):
            engine.emit(PopulateProgress("c", done, count))
        seen: list[int] = []
        while not seen or seen[-1] != count:
            seen.append(json.loads(next(events)[1])["done"])
    assert seen == sorted(seen)
    assert len(seen) < count


def test_heartbeats_and_a_client_that_leaves() -> None:
    with serving(FakeEngine(), heartbeat=0.02) as served:
        with served.client.stream("GET", "/v1/events?context=c") as response:
            events = sse_events(response.iter_lines())
            assert [next(events) for _ in range(3)] == [(":", "listening"), (":", "heartbeat"), (":", "heartbeat")]
        until(lambda: len(served.server.services.hub) == 0)


def test_a_silent_client_that_leaves_is_noticed_without_a_heartbeat(served: Served) -> None:
    with served.client.stream("GET", "/v1/events?context=c") as response:
        lines = response.iter_lines()
        next(lines)
        assert len(served.server.services.hub) == 1
    until(lambda: len(served.server.services.hub) == 0)


def test_too_many_streams() -> None:
    with (
        serving(FakeEngine(), max_streams=1) as served,
        served.client.stream("GET", "/v1/events"),
        served.new_client() as other,
    ):
        response = other.get("/v1/events")
        assert (response.status_code, error_of(response)["code"]) == (429, "too_many_requests")
        assert other.get("/health").status_code == 200


def test_an_empty_context_is_refused(served: Served) -> None:
    response = served.client.get("/v1/events?context=")
    assert (response.status_code, error_of(response)["param"]) == (400, "context")

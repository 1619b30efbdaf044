"""Scheduling as a caller sees it: answers together, in slices, cancelled, short of memory, or broken."""

from __future__ import annotations

import contextlib
import itertools
import threading
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from engine import Engine, SamplingParams
from engine.attention.base import AttentionRow
from engine.chat_stream import ChatStream
from engine.config import EngineConfig
from engine.errors import ContextFullError, EngineBusyError, EngineError, InvalidRequestError, OutOfMemoryError
from engine.runtime.scheduler import StepRow
from engine.types import ChatDelta, ChatDone, ChunksChanged, EngineEvent, PopulateFailed, PopulateProgress
from tests.engine.oracle import finish, oracle
from tests.engine.test_parity import FILES, config
from tests.tiny_models import tiny_model

FOLDER = tiny_model("llama")
LONG = "\n".join(f"line {n}: the quick brown fox jumps over the lazy dog" for n in range(60))


@pytest.fixture
def engine() -> Iterator[Engine]:
    with Engine(config(FOLDER, slice_tokens=32)) as engine:
        yield engine
        engine.check_integrity()


@contextlib.contextmanager
def watched_steps(engine: Engine) -> Iterator[list[list[StepRow]]]:
    """Every step's rows while the block runs."""
    runner = engine._worker._runner
    steps: list[list[StepRow]] = []
    original = runner.run

    def run(rows: list[StepRow]) -> Any:
        steps.append(list(rows))
        return original(rows)

    runner.run = run  # type: ignore[method-assign, assignment]
    try:
        yield steps
    finally:
        runner.run = original  # type: ignore[method-assign]


@contextlib.contextmanager
def held_worker(engine: Engine) -> Iterator[None]:
    """Nothing is computed while the block runs, so that what is asked in it comes in together."""
    with engine._state.changed:
        yield


def test_several_answers_decode_as_one_batch_and_are_what_each_would_be_alone(engine: Engine) -> None:
    contexts = [engine.context(name) for name in ("one", "two", "three")]
    for context, (source, text) in zip(contexts, FILES.items(), strict=True):
        context.add_chunk(text, source=source)
    params = SamplingParams(max_tokens=12)
    with watched_steps(engine) as steps, held_worker(engine):
        streams = [context.chat("What is it?", params) for context in contexts]
    answers = [finish(stream) for stream in streams]
    with watched_steps(engine) as steps:
        with held_worker(engine):
            streams = [context.chat("What is it?", params) for context in contexts]
        assert [finish(stream).text for stream in streams] == [answer.text for answer in answers]
    assert max(sum(row.decodes for row in rows) for rows in steps) == 3
    for context, answer in zip(contexts, answers, strict=True):
        tokens, _ = oracle(FOLDER).greedy(context.prompt_tokens("What is it?"), 12)
        assert answer.text == engine._state.model.tokenizer.decode(tokens)


def test_max_batch_bounds_the_answers_that_decode_together() -> None:
    with Engine(config(FOLDER, max_batch=2)) as engine, watched_steps(engine) as steps:
        with held_worker(engine):
            streams = [
                engine.chat([{"role": "user", "content": str(n)}], SamplingParams(max_tokens=8)) for n in range(5)
            ]
        for stream in streams:
            assert finish(stream).usage.completion_tokens == 8
    assert max(sum(row.decodes for row in rows) for rows in steps) == 2


def test_prefill_comes_in_slices_and_answers_go_on_between_them(engine: Engine) -> None:
    quick, slow = engine.context("quick"), engine.context("slow")
    slow.add_chunk(LONG, source="long")
    with watched_steps(engine) as steps:
        first = quick.chat("Who?", SamplingParams(max_tokens=60))
        began = next(first)
        second = slow.chat("Who?", SamplingParams(max_tokens=1))
        finish(second)
        finish(first, [began])
    assert all(len(row.tokens) <= 32 for rows in steps for row in rows)
    mixed = [rows for rows in steps if any(row.decodes for row in rows) and not all(row.decodes for row in rows)]
    assert len(mixed) > 3


def test_background_prefill_gives_way_to_questions(engine: Engine) -> None:
    busy, asking = engine.context("busy"), engine.context("asking")
    busy.add_chunk(LONG, source="long")
    with watched_steps(engine) as steps:
        with held_worker(engine):
            busy.populate()
            stream = asking.chat("Who?", SamplingParams(max_tokens=5))
        finish(stream)
        answered = len(steps)
        assert busy.wait_populated(60)
    questions = [index for index, rows in enumerate(steps) if any(row.samples for row in rows)]
    assert questions == list(range(questions[0], questions[0] + 5))
    assert questions[0] <= 3, "a question waits for no more than its own prefill and the slice under way"
    assert len(steps) > answered
    assert busy.plan("Who?").reused >= busy.chunk("long").tokens


def test_an_edit_drops_background_work_that_it_makes_pointless(engine: Engine) -> None:
    context = engine.context()
    context.add_chunk(LONG, source="a")
    context.add_chunk(LONG + "!", source="b")
    with held_worker(engine):
        context.populate()
        context.deactivate("b")
    assert context.wait_populated(60)
    head_and_a = context.plan("?")
    assert engine.stats().tokens_prefilled <= head_and_a.tokens
    assert context.chunk("a").fidelity == "exact"
    assert context.chunk("b").fidelity == "cold"


def test_stopped_background_work_stays_stopped_until_it_is_asked_for(engine: Engine) -> None:
    context = engine.context()
    context.add_chunk(LONG, source="a")
    events: list[EngineEvent] = []
    computing = threading.Event()

    def watch(event: EngineEvent) -> None:
        events.append(event)
        if isinstance(event, PopulateProgress) and event.done > 200 and not computing.is_set():
            computing.set()
            context.stop_populating()

    engine.subscribe(watch)
    context.populate()
    assert computing.wait(60)
    assert context.wait_populated(60)
    engine.check_integrity()
    assert events[-1] == PopulateProgress("default", 0, 0)
    finish(engine.chat([{"role": "user", "content": "One"}], SamplingParams(max_tokens=1)))  # the step under way ends
    computed = engine.stats().tokens_prefilled
    context.add_chunk(LONG + "!", source="b")
    finish(engine.chat([{"role": "user", "content": "Two"}], SamplingParams(max_tokens=1)))
    assert engine.stats().tokens_prefilled - computed < 100, "a change alone doesn't begin it again"
    assert 0 < context.chunk("a").warm_tokens < context.chunk("a").tokens, "what was computed stays"
    context.populate()
    assert context.wait_populated(60)
    assert [chunk.fidelity for chunk in context.chunks()] == ["exact", "exact"]


def test_populate_of_chosen_chunks_leaves_the_active_set_alone(engine: Engine) -> None:
    context = engine.context()
    context.add_chunk(LONG, source="a")
    context.add_chunk(FILES["b.md"], source="b", active=False)
    plan = context.populate(["b"])
    assert [chunk.name for chunk in plan.chunks] == ["b"]
    assert context.wait_populated(60)
    assert context.chunk("a").fidelity == "cold"
    assert context.chunk("b").fidelity == "anchored"
    context.activate("b")
    done = finish(context.chat("Who?", SamplingParams(max_tokens=1), fidelity="instant", budget=0.0))
    assert {chunk.name: (chunk.prefill, chunk.fidelity) for chunk in done.chunks} == {
        "a": (context.chunk("a").tokens, "exact"),
        "b": (0, "anchored"),
    }


def test_after_a_cancellation_no_more_tokens_are_computed(engine: Engine) -> None:
    stream = engine.chat([{"role": "user", "content": "Count"}], SamplingParams(max_tokens=2000))
    for _ in range(3):
        assert isinstance(next(stream), ChatDelta)
    stream.cancel()
    *_, done = stream
    assert isinstance(done, ChatDone)
    assert done.stop_reason == "cancelled"
    assert done.output is None
    # the step under way when it was cancelled has ended once another question is answered
    finish(engine.chat([{"role": "user", "content": "One"}], SamplingParams(max_tokens=1)))
    computed = engine.stats()
    finish(engine.chat([{"role": "user", "content": "Two"}], SamplingParams(max_tokens=1)))
    assert engine.stats().tokens_decoded == computed.tokens_decoded
    stream.cancel()  # no effect any more
    assert list(stream) == []


def test_a_question_cancelled_while_it_prefills_frees_what_it_held(engine: Engine) -> None:
    context = engine.context()
    context.add_chunk(LONG, source="long")
    with held_worker(engine):
        stream = context.chat("Who?")
        waiting = context.chat("What?", SamplingParams(max_tokens=2))
    stream.cancel()
    assert finish(stream).stop_reason == "cancelled"
    assert finish(waiting).stop_reason == "length"
    assert not engine._state.scheduler.pins()


def test_closing_a_stream_cancels_it(engine: Engine) -> None:
    stream = engine.chat([{"role": "user", "content": "Count"}])
    next(stream)
    stream.close()
    assert list(stream) == []
    wait_idle(engine)


def wait_idle(engine: Engine) -> None:
    with engine._state.changed:
        assert engine._state.changed.wait_for(lambda: not (engine.stats().running or engine.stats().queued), 60)


def test_an_answer_ends_at_the_windows_end() -> None:
    with Engine(config(FOLDER, max_context=100)) as engine:
        messages: Any = [{"role": "user", "content": "Count"}]
        done = finish(engine.chat(messages))
        assert done.stop_reason == "length"
        assert done.usage.prompt_tokens + done.usage.completion_tokens == 100
        with pytest.raises(ContextFullError, match="deactivate some chunks") as error:
            engine.chat([{"role": "user", "content": LONG}])
        assert error.value.data["limit"] == 100
        assert error.value.data["needed"] > 100
        engine.check_integrity()


def test_memory_pressure_evicts_what_is_inactive_before_what_is_active() -> None:
    with Engine(config(FOLDER, kv_cache_tokens=1024, block_size=16)) as engine:
        context = engine.context()
        context.add_chunk("\n".join(LONG.splitlines()[:15]), source="kept")
        context.populate()
        assert context.wait_populated(60)
        other = engine.context("other")
        for round in range(6):
            other.add_chunk(f"round {round}\n" + "\n".join(LONG.splitlines()[:12]), source="passing")
            other.populate()
            assert other.wait_populated(60)
            other.deactivate("passing")
        assert engine.stats().blocks_used <= engine.stats().blocks_total
        assert context.chunk("kept").fidelity == "exact"
        engine.check_integrity()


def test_what_cannot_be_served_fails_alone() -> None:
    with Engine(config(FOLDER, kv_cache_tokens=600, block_size=16)) as engine:
        running = engine.chat([{"role": "user", "content": "Count"}], SamplingParams(max_tokens=400))
        began = next(running)
        context = engine.context()
        context.add_chunk("\n".join(LONG.splitlines()[:18]), source="big")
        waits = context.chat("Who?", SamplingParams(max_tokens=2))
        assert finish(running, [began]).stop_reason == "length"
        assert finish(waits).stop_reason == "length"  # it has waited until there was room
        both = [engine.chat([{"role": "user", "content": text}], SamplingParams(max_tokens=500)) for text in "ab"]
        ends = [outcome(stream) for stream in both]
        assert "length" in ends, "one of the two has all it needs"
        assert set(ends) <= {"length", "out_of_memory"}
        engine.check_integrity()
        assert finish(context.chat("Who?", SamplingParams(max_tokens=2))).stop_reason == "length"


def outcome(stream: ChatStream) -> str:
    try:
        return finish(stream).stop_reason
    except OutOfMemoryError as error:
        return error.code


def test_background_prefill_that_finds_no_room_says_so() -> None:
    with Engine(config(FOLDER, kv_cache_tokens=640, block_size=64)) as engine:
        events: list[EngineEvent] = []
        engine.subscribe(events.append)
        context = engine.context()
        for number in range(12):  # each takes a block of the ten and fills a part of it
            context.add_chunk(str(number), source=str(number))
        context.populate()
        assert context.wait_populated(60)
        (failure,) = [event for event in events if isinstance(event, PopulateFailed)]
        assert (failure.context, failure.code) == ("default", "out_of_memory")
        engine.check_integrity()


def test_a_broken_step_fails_those_in_it_and_nobody_else(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    good = engine.chat([{"role": "user", "content": "Count"}], SamplingParams(max_tokens=3))
    assert finish(good).stop_reason == "length"
    monkeypatch.setattr(engine._worker._runner, "run", lambda rows: 1 / 0)
    broken = engine.chat([{"role": "user", "content": "Count on"}])
    with pytest.raises(EngineError, match="division by zero"):
        finish(broken)
    context = engine.context()
    context.add_chunk(FILES["a.py"], source="a.py")
    context.populate()
    assert context.wait_populated(60)
    monkeypatch.undo()
    assert finish(context.chat("Who?", SamplingParams(max_tokens=3))).stop_reason == "length"


def test_close_ends_what_is_under_way_and_refuses_more(engine: Engine) -> None:
    stream = engine.chat([{"role": "user", "content": "Count"}])
    next(stream)
    context = engine.context()
    context.add_chunk("text", source="a")
    engine.close()
    engine.close()
    with pytest.raises(EngineBusyError):
        list(stream)
    for use in (lambda: context.chat("?"), lambda: context.add_chunk("more"), context.populate, engine.context):
        with pytest.raises(EngineBusyError):
            use()


def test_stop_strings_seeds_and_penalties_reach_the_answer(engine: Engine) -> None:
    messages: Any = [{"role": "user", "content": "Count"}]
    plain = finish(engine.chat(messages, SamplingParams(max_tokens=40)))
    stop = plain.text[8:11]
    stopped = finish(engine.chat(messages, SamplingParams(max_tokens=40, stop=(stop,))))
    assert stopped.stop_reason == "stop"
    assert stopped.text == plain.text[: plain.text.index(stop)]
    sampled = [
        finish(engine.chat(messages, SamplingParams(max_tokens=20, temperature=1.5, seed=seed))).text
        for seed in (1, 1, 2)
    ]
    assert sampled[0] == sampled[1] != sampled[2]
    penalized = finish(engine.chat(messages, SamplingParams(max_tokens=40, repetition_penalty=5.0)))
    assert penalized.text != plain.text


def test_events_tell_of_changes_and_progress_until_unsubscribed(engine: Engine) -> None:
    events: list[EngineEvent] = []
    unsubscribe = engine.subscribe(events.append)
    context = engine.context("here")
    context.add_chunk(LONG, source="long")
    assert events == [ChunksChanged("here")]
    context.populate()
    assert context.wait_populated(60)
    progress = [event for event in events if isinstance(event, PopulateProgress)]
    assert [event.done for event in progress] == sorted(event.done for event in progress)
    assert progress[-1].done == progress[-1].total
    context.add_chunk(LONG + "!", source="longer")
    events.clear()
    finish(context.chat("Who?", SamplingParams(max_tokens=5)))
    asked = [event for event in events if isinstance(event, PopulateProgress)]
    under_way = [event.done for event in asked if event.done < event.total]
    assert under_way == sorted(set(under_way))
    # upkeep may find everything there behind the question, and says so, too
    assert progress[-1].total < asked[-1].done == asked[-1].total
    unsubscribe()
    unsubscribe()
    count = len(events)
    context.delete("long")
    assert len(events) == count


def test_many_threads_at_once_do_no_harm(engine: Engine) -> None:
    problems: list[BaseException] = []

    def work(number: int) -> None:
        try:
            context = engine.context(f"thread {number % 2}")
            for round in range(4):
                context.add_chunk(f"{LINES[round]} # {number}", source=f"{number}.py")
                context.populate()
                assert finish(context.chat("Who?", SamplingParams(max_tokens=4))).usage.completion_tokens == 4
                context.deactivate(f"{number}.py")
                context.chunks()
        except BaseException as error:
            problems.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for _ in itertools.takewhile(lambda _: any(thread.is_alive() for thread in threads), itertools.count()):
        engine.check_integrity()
        threads[0].join(0.05)
    assert not problems


LINES = LONG.splitlines()


@pytest.mark.parametrize(
    "fields",
    [
        {"temperature": -1},
        {"top_p": 0},
        {"top_p": 1.1},
        {"top_k": -1},
        {"min_p": 2},
        {"repetition_penalty": 0},
        {"max_tokens": 0},
        {"stop": ("",)},
    ],
)
def test_bad_sampling_parameters_are_named(fields: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequestError, match=next(iter(fields))):
        SamplingParams(**fields)


@pytest.mark.parametrize(
    "fields",
    [
        {"dtype": "int3"},
        {"attention": "mine"},
        {"block_size": 0},
        {"slice_tokens": 0},
        {"max_context": 0},
        {"threads": -1},
    ],
)
def test_bad_settings_are_named(fields: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequestError, match=next(iter(fields))):
        EngineConfig(**fields)


def test_an_unusable_device_is_refused_with_its_name() -> None:
    with pytest.raises(InvalidRequestError, match="'moon'"):
        Engine(config(FOLDER, device="moon"))


def test_bad_questions_are_refused(engine: Engine) -> None:
    context = engine.context()
    with pytest.raises(InvalidRequestError, match="fidelity"):
        context.chat("Who?", fidelity="soon")  # type: ignore[arg-type]
    for messages in ([], [{"role": "assistant", "content": "I"}], [{"role": "user", "content": 3}]):
        with pytest.raises(InvalidRequestError):
            context.chat(messages)  # type: ignore[arg-type]
        with pytest.raises(InvalidRequestError):
            engine.chat(messages)  # type: ignore[arg-type]


def test_rows_say_where_they_stand() -> None:
    from engine.hashing import token_array
    from engine.kv.segment import Segment
    from engine.kv.virtual_block_table import Placement, VirtualBlockTable

    earlier = Segment(b"", token_array(range(5)), 0, [0], 5)
    own = Segment(b"", token_array(range(9)), 5, [1], 3)
    row = AttentionRow(VirtualBlockTable.build([Placement(earlier, 0, 5)], 16), own, 6)
    assert row.position == 8
    assert torch.tensor(own.slots(3, 6, 16)).tolist() == [19, 20, 21, 22, 23, 24]


def test_a_question_gives_its_room_to_the_answer_that_is_running() -> None:
    """The question finds room at first, and is half done when the answer needs that room."""
    with Engine(config(FOLDER, kv_cache_tokens=640, block_size=16, slice_tokens=16, speculation=False)) as engine:
        context = engine.context()
        context.add_chunk("\n".join(LONG.splitlines()[:18]), source="big")
        tokens = context.plan("Who?").tokens
        running = engine.chat([{"role": "user", "content": "Count"}], SamplingParams(max_tokens=640 - tokens + 60))
        read = list(itertools.islice(running, (640 - tokens) // 4))
        waits = context.chat("Who?", SamplingParams(max_tokens=2))
        assert finish(running, read).stop_reason == "length"
        assert finish(waits).stop_reason == "length"
        engine.check_integrity()


def test_an_answer_that_is_cancelled_before_its_step_harms_no_other() -> None:
    """Between planning a step and computing it the lock is free; what has ended meanwhile is computed all the same."""
    with Engine(config(FOLDER, block_size=1, kv_cache_tokens=1000)) as engine:
        runner, streams = engine._worker._runner, list[ChatStream]()
        original = runner.run

        def run(rows: list[StepRow]) -> Any:
            if len(rows) == 2 and all(row.decodes for row in rows):
                streams[0].cancel()
            return original(rows)

        runner.run = run  # type: ignore[method-assign, assignment]
        with held_worker(engine):
            for number in range(2):
                question = [{"role": "user", "content": str(number)}]
                streams.append(engine.chat(question, SamplingParams(max_tokens=50)))  # type: ignore[arg-type]
        assert finish(streams[0]).stop_reason == "cancelled"
        assert finish(streams[1]).stop_reason == "length"
        engine.check_integrity()

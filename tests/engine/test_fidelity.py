"""Fidelity per question, and the refiner: what near KV may do, how it becomes exact, and that it leaves no trace."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from engine import Engine, SamplingParams
from engine.context import Context
from engine.errors import InvalidRequestError
from engine.repair import Repair
from engine.types import ChatDone, FidelityLabel, PopulateProgress
from tests.engine.oracle import TOLERANCE, assert_greedy, finish, oracle, recorded_logits
from tests.engine.test_parity import ask_and_compare, config
from tests.engine.test_runtime import held_worker, watched_steps
from tests.tiny_models import tiny_model

FOLDER = tiny_model("qwen3")
GREEDY = SamplingParams(max_tokens=6)
QUESTION = "What is read once?"


def text(name: str, lines: int = 14) -> str:
    return "\n".join(f"def {name}_{n}(left, right): return left + {n} * right  # {name}" for n in range(lines))


@pytest.fixture
def engine() -> Iterator[Engine]:
    with Engine(config(FOLDER, slice_tokens=64)) as engine:
        yield engine
        engine.check_integrity()


def filled(engine: Engine, id: str = "files", names: str = "abcd", **options: Any) -> Context:
    """A context whose files are all exact."""
    context = engine.context(id, **options)
    for name in names:
        context.add_chunk(text(name), source=name)
    context.populate()
    assert context.wait_populated(60)
    return context


def ask(
    engine: Engine, context: Context, fidelity: Any = "exact", budget: float | None = None
) -> tuple[ChatDone, Tensor]:
    """The answer and the logits behind its tokens, float32 [n, vocab]."""
    params = SamplingParams(max_tokens=6)
    with recorded_logits(engine, params) as recorded:
        done = finish(context.chat(QUESTION, params, fidelity=fidelity, budget=budget))
    return done, torch.stack(recorded)


def labels(context: Context) -> set[FidelityLabel]:
    return {chunk.fidelity for chunk in context.chunks() if chunk.active}


CHANGES = {
    "edit": lambda context: context.add_chunk(text("b").replace("b_3", "b_three"), source="b"),
    "drop": lambda context: context.deactivate("b"),
    "drop the first": lambda context: context.deactivate("a"),
    "insert": lambda context: (context.add_chunk(text("new"), source="new"), context.move("new", 1)),
    "reorder": lambda context: context.move("c", 0),
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("order", ["recency", "fixed"])
def test_after_the_refiner_everything_is_what_a_cold_run_computes(engine: Engine, change: str, order: str) -> None:
    context = filled(engine, order=order)
    with held_worker(engine):
        CHANGES[change](context)
        assert labels(context) != {FidelityLabel.EXACT}
        before = [chunk.name for chunk in context.chunks()]
    assert context.wait_populated(60)
    moves = change == "edit" and order == "recency"
    assert [chunk.name for chunk in context.chunks()] == (["a", "c", "d", "b"] if moves else before)
    assert labels(context) == {FidelityLabel.EXACT}
    done, logits = ask(engine, context, "instant")
    assert all(chunk.prefill == 0 and chunk.fidelity is FidelityLabel.EXACT for chunk in done.chunks)
    tokens, expected = oracle(FOLDER).greedy(context.prompt_tokens(QUESTION), 6)
    assert_greedy(list(logits), tokens, expected)


def test_an_edited_chunk_moves_when_its_new_place_is_exact_and_costs_no_question_more() -> None:
    with Engine(config(FOLDER, refine=False, block_size=16)) as engine:
        context = engine.context()
        for name in "abc":
            context.add_chunk(text(name), source=name)
        ask(engine, context)
        context.add_chunk(text("a").replace("a_9(left", "a_nine(left"), source="a")
        at_once = context.plan(QUESTION, fidelity="instant")
        assert [chunk.name for chunk in at_once.chunks] == ["a", "b", "c"]
        done, _ = ask(engine, context, "instant")
        assert [chunk.name for chunk in done.chunks] == ["a", "b", "c"]
        done, _ = ask(engine, context, "exact")
        assert [chunk.name for chunk in done.chunks] == ["b", "c", "a"]
        context.add_chunk(text("a").replace("a_9(left", "a_ninth(left"), source="a")
        done, _ = ask(engine, context, "exact")
        assert [chunk.prefill for chunk in done.chunks][:2] == [0, 0], "its next edits cost no other chunk anything"
        context.pin("b")
        context.add_chunk(text("b").replace("b_3", "b_three"), source="b")
        done, _ = ask(engine, context, "exact")
        assert [chunk.name for chunk in done.chunks] == ["b", "c", "a"]


@pytest.mark.parametrize("change", CHANGES)
def test_an_instant_answer_takes_what_there_is_and_is_made_exact_afterwards(change: str) -> None:
    with Engine(config(FOLDER)) as engine:
        context = engine.context(order="fixed")
        for name in "abcd":
            context.add_chunk(text(name), source=name)
        ask(engine, context)
        CHANGES[change](context)
        plan = context.plan(QUESTION, fidelity="instant")
        assert plan.prefill < context.plan(QUESTION, fidelity="exact").prefill
        done, _ = ask(engine, context, "instant")
        assert done.usage.prefilled_tokens == plan.prefill
        assert {FidelityLabel.NEAR} <= {chunk.fidelity for chunk in done.chunks}
        assert context.wait_populated(60)
        assert labels(context) == {FidelityLabel.EXACT}
        ask_and_compare(engine, FOLDER, context, QUESTION)


def test_an_edit_is_answered_at_once_for_the_price_of_its_lines() -> None:
    """The rest of the edited file is used again behind the change, as near KV."""
    with Engine(config(FOLDER, refine=False, block_size=16)) as engine:
        context = engine.context(order="fixed")
        for name in "abc":
            context.add_chunk(text(name), source=name)
        ask(engine, context)
        context.add_chunk(text("a").replace("a_5(left", "a_five(left"), source="a")
        done, _ = ask(engine, context, "instant")
        edited = next(chunk for chunk in done.chunks if chunk.name == "a")
        assert edited.fidelity is FidelityLabel.NEAR
        assert edited.prefill < edited.tokens / 4
        assert [chunk.prefill for chunk in done.chunks if chunk.name != "a"] == [0, 0]


def test_what_has_read_a_dropped_chunk_is_repaired_once_within_its_share() -> None:
    repair = Repair(share=0.1, safe_read=0.0)
    with Engine(config(FOLDER, refine=False), repair=repair) as engine:
        context = engine.context()
        for name in "abcd":
            context.add_chunk(text(name), source=name)
        ask(engine, context)
        context.deactivate("b")
        done, _ = ask(engine, context, "instant")
        repaired = {chunk.name: chunk.prefill for chunk in done.chunks}
        assert repaired["a"] == 0
        assert 0 < repaired["c"] + repaired["d"] <= 0.1 * done.usage.prompt_tokens
        again, _ = ask(engine, context, "instant")
        assert [chunk.prefill for chunk in again.chunks] == [0, 0, 0]


def test_repairs_bring_answers_closer_to_a_cold_run() -> None:
    """Most of what is left of a dropped chunk goes with the tokens that read most of it."""
    errors = {}
    for share in (0.0, 0.3):
        with Engine(config(FOLDER, refine=False), repair=Repair(share=share, safe_read=0.0)) as engine:
            context = engine.context()
            for name in "abcd":
                context.add_chunk(text(name), source=name)
            ask(engine, context)
            context.deactivate("a")
            _, logits = ask(engine, context, "instant", 0.0)
            errors[share] = float((logits[0] - oracle(FOLDER).logits(context.prompt_tokens(QUESTION))[-1]).norm())
    assert errors[0.3] < errors[0.0]


def test_auto_is_exact_within_its_budget_and_takes_what_there_is_beyond_it() -> None:
    with Engine(config(FOLDER, refine=False)) as engine:
        context = engine.context(order="fixed")
        for name in "abcd":
            context.add_chunk(text(name), source=name)
        ask(engine, context)
        context.add_chunk(text("b").replace("b_3", "b_three"), source="b")
        for budget, mode in ((1000.0, "exact"), (0.0, "instant")):
            assert context.plan(QUESTION, budget=budget).mode == mode
        done, _ = ask(engine, context, "auto", 0.0)
        assert FidelityLabel.NEAR in {chunk.fidelity for chunk in done.chunks}
        done, _ = ask(engine, context, "auto", 1000.0)
        assert {chunk.fidelity for chunk in done.chunks} == {FidelityLabel.EXACT}


@pytest.mark.parametrize("change", ["drop the first", "bring in from elsewhere"])
def test_auto_waits_when_what_is_there_would_mislead(change: str) -> None:
    with Engine(config(FOLDER, refine=False), repair=Repair(repairable_read=0.001)) as engine:
        context = engine.context(order="fixed")
        for name in "abcd":
            context.add_chunk(text(name), source=name)
        context.add_chunk(text("new"), source="new", active=False)
        ask(engine, context)
        context.populate(["new"])
        assert context.wait_populated(60)
        context.activate("new") if change == "bring in from elsewhere" else context.deactivate("a")
        assert context.plan(QUESTION, fidelity="instant", budget=0.0).mode == "instant"
        assert context.plan(QUESTION, budget=0.0).mode == "exact"
        done, _ = ask(engine, context, "auto", 0.0)
        assert {chunk.fidelity for chunk in done.chunks} == {FidelityLabel.EXACT}


def test_auto_computes_no_more_than_makes_it_safe() -> None:
    """Of a chunk moved to the front that has read all others, and of the one that now reads it first."""
    errors = {}
    for fidelity in ("instant", "auto"):
        with Engine(config(FOLDER, refine=False)) as engine:
            context = filled(engine, names="abcde", order="fixed")
            context.move("e", 0)
            done, logits = ask(engine, context, fidelity, 0.0)
            cold = oracle(FOLDER).logits(context.prompt_tokens(QUESTION))[-1]
            errors[fidelity] = float((logits[0] - cold).norm())
        used = {chunk.name: chunk for chunk in done.chunks}
        whole = [name for name in used if used[name].reused == 0]
        assert whole == (["e", "a"] if fidelity == "auto" else [])
        repaired = sum(chunk.prefill for name, chunk in used.items() if name not in whole)
        assert repaired <= 0.05 * done.usage.prompt_tokens
        assert {used[name].fidelity for name in whole} <= {FidelityLabel.EXACT}
        assert {used[name].fidelity for name in "bcd"} == {FidelityLabel.NEAR}
    assert errors["auto"] < errors["instant"]


def test_a_chunk_from_elsewhere_is_computed_anew_as_far_as_the_budget_goes() -> None:
    with Engine(config(FOLDER, refine=False)) as engine:
        context = engine.context()
        for name in "abc":
            context.add_chunk(text(name), source=name)
        context.add_chunk(text("new"), source="new", active=False)
        ask(engine, context)
        context.populate(["new"])
        assert context.wait_populated(60)
        context.activate("new")
        at_once = context.plan(QUESTION, fidelity="instant", budget=0.0)
        assert at_once.chunks[-1].fidelity is FidelityLabel.ANCHORED
        assert at_once.chunks[-1].prefill == 0
        assert context.plan(QUESTION, fidelity="instant", budget=1000.0).chunks[-1].reused == 0
        done, _ = ask(engine, context, "instant", 0.0)
        assert done.chunks[-1].fidelity is FidelityLabel.ANCHORED


def test_a_plan_predicts_the_time_once_something_was_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CTX_LSP_SPEED_DIR", str(tmp_path))
    with Engine(config(FOLDER)) as engine:
        context = engine.context()
        context.add_chunk(text("a"), source="a")
        assert context.plan(QUESTION).time_to_first_token is None
        ask(engine, context)
        cold = engine.context("other", instructions="Other words.")
        for name in "abcd":
            cold.add_chunk(text(name), source=name)
        warm, more = context.plan(QUESTION).time_to_first_token, cold.plan(QUESTION).time_to_first_token
        assert warm is not None
        assert more is not None
        assert 0 < warm < more
    with Engine(config(FOLDER)) as engine:  # what was learned is kept between runs
        assert engine.context().plan(QUESTION).time_to_first_token is not None


def test_bad_fidelity_and_budget_are_refused(engine: Engine) -> None:
    context = filled(engine, names="a")
    for options in ({"fidelity": "quick"}, {"budget": -1.0}, {"budget": float("nan")}):
        with pytest.raises(InvalidRequestError):
            context.chat(QUESTION, **options)
        with pytest.raises(InvalidRequestError):
            context.plan(QUESTION, **options)


# -- contamination -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("change", ["off", "edited", "deleted"])
def test_exact_remembers_nothing_of_a_chunk_that_is_gone(change: str) -> None:
    """Logits are those of a context that never held it, whatever was asked over it before."""
    with Engine(config(FOLDER)) as engine, Engine(config(FOLDER)) as other:
        context, never = engine.context(), other.context()
        context.add_chunk("SECRET = 'the dog jumps over the lazy fox'\n" * 8, source="secret")
        for name in "ab":
            context.add_chunk(text(name), source=name)
        for fidelity in ("exact", "instant"):
            ask(engine, context, fidelity)
        if change == "edited":
            context.add_chunk(text("harmless"), source="secret")
            for source in ("a", "b", "harmless"):
                never.add_chunk(text(source), source="secret" if source == "harmless" else source)
        else:
            context.deactivate("secret") if change == "off" else context.delete("secret")
            for source in ("a", "b"):
                never.add_chunk(text(source), source=source)
        for fidelity in ("instant", "exact"):  # an instant answer in between must not matter either
            _, logits = ask(engine, context, fidelity)
        _, expected = ask(other, never, "exact")
        torch.testing.assert_close(logits, expected, atol=TOLERANCE, rtol=0)
        assert context.wait_populated(60)
        _, refined = ask(engine, context, "instant")
        torch.testing.assert_close(refined, expected, atol=TOLERANCE, rtol=0)


# -- the refiner's manners ---------------------------------------------------------------------------------------------


def test_a_question_waits_for_no_more_than_one_slice_of_refining(engine: Engine) -> None:
    context, asking = filled(engine), engine.context("asking")
    with watched_steps(engine) as steps:
        with held_worker(engine):
            context.move("d", 0)
        while not steps:
            pass
        before = len(steps)
        with held_worker(engine):
            stream = asking.chat("Who?", SamplingParams(max_tokens=1))
            under_way = len(steps)
        finish(stream)
        answered = next(n for n, rows in enumerate(steps) if any(row.samples for row in rows))
    assert before >= 1
    assert all(row.owner is steps[answered][0].owner for rows in steps[under_way + 1 : answered] for row in rows)
    assert context.wait_populated(60)


def test_chunks_without_kv_come_before_refining(engine: Engine) -> None:
    first, second = filled(engine, "first", "abcd"), filled(engine, "second", "ab")
    events: list[tuple[str, str]] = []
    with held_worker(engine):
        engine.subscribe(
            lambda event: events.append((event.context, event.phase)) if isinstance(event, PopulateProgress) else None
        )
        first.move("d", 0)
        second.add_chunk(text("new"), source="new")
    assert first.wait_populated(60)
    assert second.wait_populated(60)
    refining = [context for context, phase in events if phase == "refine"]
    assert events.index(("second", "populate")) < events.index(("first", "refine"))
    assert refining
    assert labels(first) == labels(second) == {FidelityLabel.EXACT}


def test_what_an_edit_has_made_pointless_is_not_computed(engine: Engine) -> None:
    context = filled(engine)
    before = engine.stats().tokens_prefilled
    with held_worker(engine):
        context.move("d", 0)
        context.move("d", 3)
    assert context.wait_populated(60)
    assert engine.stats().tokens_prefilled == before


def test_without_refining_nothing_is_computed_unasked() -> None:
    with Engine(config(FOLDER, refine=False)) as engine:
        context = filled(engine)
        before = engine.stats().tokens_prefilled
        context.move("d", 0)
        assert context.wait_populated(60)
        assert engine.stats().tokens_prefilled == before
        assert labels(context) != {FidelityLabel.EXACT}


# -- steady state ------------------------------------------------------------------------------------------------------


def test_a_thousand_recombinations_leave_the_engine_as_it_was() -> None:
    """No growth in what it keeps, no decay of reuse, integrity intact."""
    generator = torch.Generator().manual_seed(7)

    def draw(n: int) -> int:
        return int(torch.randint(n, (1,), generator=generator))

    with Engine(config(FOLDER, kv_cache_tokens=6000, block_size=16, refine=False)) as engine:
        context = engine.context()
        for name in "abcdef":
            context.add_chunk(text(name, 8), source=name)
        reused: list[float] = []
        kept: list[int] = []
        for step in range(1000):
            name = "abcdef"[draw(6)]
            kind = draw(4)
            if kind == 0:
                context.add_chunk(text(name, 8).replace("left +", f"left + {draw(50)} +", 1 + draw(8)), source=name)
            elif kind == 1:
                (context.activate if draw(2) else context.deactivate)(name)
            else:
                context.move(name, draw(6))
            if step % 5 == 0:
                done = finish(context.chat(QUESTION, SamplingParams(max_tokens=1), fidelity="instant"))
                reused.append(done.usage.reused_tokens / done.usage.prompt_tokens)
                context.clear("outputs")
                kept.append(len(engine._state.store) + len(context._manager.kv) + len(context.chunks()))
            engine.check_integrity()
        assert max(kept[100:]) <= 1.25 * max(kept[50:100])
        assert sum(reused[150:]) / 50 >= sum(reused[20:70]) / 50 - 0.05
        ask_and_compare(engine, FOLDER, context, QUESTION)

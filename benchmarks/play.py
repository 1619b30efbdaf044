"""Plays a session on an engine: carries out its actions, pauses behind each, and notes what every question costs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from benchmarks.clock import Clock
from benchmarks.idle import Pauses
from benchmarks.session import OPEN_AT_FIRST, Action
from engine import Engine, SamplingParams
from engine.config import EngineConfig, Fidelity, Order
from engine.context import Context
from engine.model import LoadedModel
from engine.types import ChatDone, FidelityLabel


@dataclass(frozen=True)
class Way:
    """How the session's questions are asked.

    Attributes:
        pause: tokens that the background may compute behind each action; None keeps it from doing anything.
    """

    name: str
    fidelity: Fidelity
    pause: int | None = None


@dataclass(frozen=True)
class Answer:
    """What a question at `step` cost: tokens of its prompt computed and reused, seconds to the first token.

    Attributes:
        occasion: what has happened since the question before, one of `OCCASIONS`.
        exact: whether all KV it read is what a cold run would compute.
    """

    step: int
    occasion: str
    computed: int
    reused: int
    seconds: float
    exact: bool


@dataclass(frozen=True)
class Played:
    """A session played: its answers, and tokens computed in the background behind each action."""

    order: Order
    way: Way
    answers: tuple[Answer, ...]
    background: tuple[int, ...]


NOTHING, AGAIN, ANOTHER, SET = "nothing", "same file edited", "another file edited", "files switched"
OCCASIONS = (NOTHING, AGAIN, ANOTHER, SET)


def occasions(actions: Sequence[Action]) -> list[str]:
    """For each question what has happened since the one before."""
    asked = [-1, *(step for step, action in enumerate(actions) if action.what == "ask")]
    return [_occasion(actions[: before + 1], actions[before + 1 : step]) for before, step in pairwise(asked)]


def _occasion(earlier: Sequence[Action], since: Sequence[Action]) -> str:
    if any(action.what != "edit" for action in since):
        return SET
    last = next((action.name for action in reversed(earlier) if action.what == "edit"), None)
    if not since:
        return NOTHING
    return AGAIN if {action.name for action in since} == {last} else ANOTHER


def play(model: LoadedModel, config: EngineConfig, actions: Sequence[Action], order: Order, way: Way) -> Played:
    """Go through the session with an engine of its own; the files opened at first are computed before it begins."""
    opening, actions = actions[:OPEN_AT_FIRST], actions[OPEN_AT_FIRST:]
    happened = iter(occasions(actions))
    answers: list[Answer] = []
    background: list[int] = []
    with Engine(replace(config, refine=way.pause is not None), model=model) as engine:
        context = engine.context("session", order=order)
        pauses = Pauses(engine)
        for action in opening:
            change(context, action)
        context.populate()
        pauses.take(None)
        for step, action in enumerate(actions):
            if action.what == "ask":
                answers.append(_ask(model, context, way.fidelity, step, next(happened), action.text))
            else:
                change(context, action)
            before = pauses.computed
            if way.pause is not None:
                pauses.take(way.pause)
            background.append(pauses.computed - before)
    return Played(order, way, tuple(answers), tuple(background))


def change(context: Context, action: Action) -> None:
    """Carry out an action that isn't a question."""
    match action.what:
        case "open" | "edit":
            context.add_chunk(action.text, source=action.name)
        case "close":
            context.remove_source(action.name)
        case "switch off":
            context.deactivate(action.name)
        case "switch on":
            context.activate(action.name)


def _ask(model: LoadedModel, context: Context, fidelity: Fidelity, step: int, occasion: str, text: str) -> Answer:
    clock = Clock(model.device)
    stream = context.chat(text, SamplingParams(max_tokens=1), fidelity=fidelity)
    first = next(stream)
    clock.stop()
    done = first if isinstance(first, ChatDone) else [*stream][-1]
    assert isinstance(done, ChatDone)
    return Answer(
        step=step,
        occasion=occasion,
        computed=done.usage.prefilled_tokens,
        reused=done.usage.reused_tokens,
        seconds=clock.seconds,
        exact=all(chunk.fidelity is FidelityLabel.EXACT for chunk in done.chunks),
    )

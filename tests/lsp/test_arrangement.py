"""Whatever a context is like, it gets the order and state that are wanted, as far as the chunks are there."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

from hypothesis import given
from hypothesis import strategies as st

from ctx_lsp import wire
from ctx_lsp.engines.client import EngineClient, RemoteEngineError
from ctx_lsp.protocol import ChunksResult
from ctx_lsp.workspace.arrangement import arrange, shown
from tests.lsp.fake_contexts import ApiError, Behavior, Fake

NAMES = "abcdef"
CONTEXT = "c"


class DirectEngine:
    """The fake engine's contexts without HTTP, as far as arranging needs them."""

    def __init__(self) -> None:
        self.fake = Fake(Behavior(limit=10**6), "model", "token")
        self.fake.contexts[CONTEXT] = []

    async def describe_context(self, context: str) -> ChunksResult:
        return wire.from_engine(self.fake.describe(context), ChunksResult)

    async def compose(self, context: str, refs: Sequence[str], name: str) -> None:
        try:
            self.fake.act(context, "compose", {"refs": refs, "name": name})
        except ApiError as error:
            raise RemoteEngineError("invalid_request", str(error)) from None

    async def tag(self, context: str, ref: str, tags: Sequence[str], *, remove: bool = False) -> None:
        self.fake.act(context, "untag" if remove else "tag", {"ref": ref, "tags": list(tags)})

    async def set_active(self, context: str, refs: Sequence[str], active: bool) -> None:
        self.fake.act(context, "activate" if active else "deactivate", {"refs": refs})

    async def set_pinned(self, context: str, refs: Sequence[str], pinned: bool) -> None:
        self.fake.act(context, "pin" if pinned else "unpin", {"refs": refs})

    async def move(self, context: str, ref: str, position: int) -> None:
        self.fake.act(context, "move", {"ref": ref, "position": position})

    def add(self, want: Want, text: str) -> None:
        self.fake.add(CONTEXT, {"text": text, "source": want.name, "active": want.active, "tags": want.tags})
        if want.pinned:
            self.fake.act(CONTEXT, "pin", {"refs": [want.name]})


@dataclass(frozen=True)
class Want:
    name: str
    tags: tuple[str, ...]
    active: bool
    pinned: bool
    kind: str = "file"
    parts: tuple[str, ...] = ()

    @property
    def hash(self) -> str:
        return f"as it was: {self.name}"

    @property
    def sources(self) -> tuple[str, ...]:
        return (self.name,)


@st.composite
def wants(draw: st.DrawFn) -> list[Want]:
    tags = st.lists(st.sampled_from("xyz"), unique=True).map(tuple)
    names = draw(st.lists(st.sampled_from(NAMES), unique=True))
    return [Want(name, draw(tags), draw(st.booleans()), draw(st.booleans())) for name in names]


def arranged(present: Sequence[Want], wanted: Sequence[Want]) -> list[Any]:
    """The chunks after arranging, with the texts of now."""
    engine = DirectEngine()
    for want in present:
        engine.add(want, f"text of {want.name}")
    asyncio.run(arrange(cast(EngineClient, engine), CONTEXT, wanted))
    return list(asyncio.run(engine.describe_context(CONTEXT)).chunks)


@given(present=wants(), wanted=wants())
def test_wanted_chunks_come_first_and_as_they_are_wanted(present: list[Want], wanted: list[Want]) -> None:
    chunks = arranged(present, wanted)
    there = {want.name: want for want in present}
    found = [want for want in wanted if want.name in there]
    others = [want for want in present if want not in found and want.name not in {want.name for want in wanted}]
    expected = [*found, *(replace(want, active=False) for want in others)]
    assert [Want(chunk.name, chunk.tags, chunk.active, chunk.pinned) for chunk in chunks] == expected


@given(present=wants(), data=st.data())
def test_compositions_are_made_of_what_their_parts_are_now(present: list[Want], data: st.DataObject) -> None:
    names = [want.name for want in present]
    parts = data.draw(st.lists(st.sampled_from([*names, "gone"]), unique=True, max_size=4))
    whole = Want("whole", ("t",), True, True, "composition", tuple(f"as it was: {name}" for name in parts))
    place = data.draw(st.integers(0, len(present)))
    wanted = [*present[:place], whole, *present[place:], Want("gone", (), True, False)]
    chunks = arranged(present, wanted)
    hashes = {chunk.name: chunk.hash for chunk in chunks}
    expected = [hashes[name] for name in parts if name != "gone"]
    if not expected:
        assert "whole" not in hashes
        return
    composed = chunks[place]
    assert (composed.name, composed.kind, list(composed.parts)) == ("whole", "composition", expected)
    assert (composed.tags, composed.active, composed.pinned) == (("t",), True, True)


@given(present=wants())
def test_what_is_as_it_should_be_is_left_alone(present: list[Want]) -> None:
    chunks = arranged(present, present)
    assert [Want(chunk.name, chunk.tags, chunk.active, chunk.pinned) for chunk in chunks] == present
    assert [chunk.name for chunk in shown(chunks)] == [want.name for want in present if want.active]

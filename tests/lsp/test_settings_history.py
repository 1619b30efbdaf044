"""Whatever is changed, edited and asked in any order, the engine of the options has the client's text, and no other."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.lsp.driver import Driver, EngineSetup, chat
from tests.lsp.wire_client import LocalClient

MODELS = ("one", "two")
OPTIONS: dict[str, list[Any]] = {
    "model": [*MODELS],
    "instructions": ["Be kind.", "Be brief.", None],
    "order": ["fixed", "recency"],
    "fidelity": ["exact", "instant"],
    "debounceMs": [0, 5, -1, "soon"],
}
actions = st.one_of(
    st.sampled_from([(key, value) for key, values in OPTIONS.items() for value in values]),
    st.tuples(st.just("edit"), st.sampled_from(["a", "b c", ""])),
    st.just(("ask", None)),
    st.just(("pause", None)),
)


@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(sequence=st.lists(actions, max_size=12))
def test_the_engine_of_the_options_has_the_clients_text(
    workspace: Path, engine: EngineSetup, sequence: list[tuple[str, Any]]
) -> None:
    asyncio.run(play(workspace, engine, sequence))


async def play(workspace: Path, engine: EngineSetup, sequence: list[tuple[str, Any]]) -> None:
    async with AsyncExitStack() as stack:
        driver = Driver(workspace, engine, stack)
        client = await driver.start(model="one")
        driver.open(client, "a.txt", "begin")
        options: dict[str, Any] = {"model": "one"}
        text, asked = "begin", list[int]()
        for number, (what, value) in enumerate(sequence):
            if what == "edit":
                text = value
                change = {"textDocument": {"uri": driver.uri("a.txt"), "version": number + 2}}
                client.notify("textDocument/didChange", change | {"contentChanges": [{"text": text}]})
            elif what == "ask":
                asked.append(client.post("ctx/chat", chat(turn=f"t{number}", conversationId=f"c{number % 2}")))
            elif what == "pause":
                await client.request("ctx/chunks", {})
            else:
                options[what] = value
                client.notify("workspace/didChangeConfiguration", {"settings": {"ctx": options}})
        assert [(await client.result(msg_id))["stopReason"] for msg_id in asked] == ["stop"] * len(asked)
        await check(client, engine, options, text)


async def check(client: LocalClient, engine: EngineSetup, options: dict[str, Any], text: str) -> None:
    await client.request("ctx/chat", chat(turn="last"))
    for model in engine.infos():
        state = await engine.state(model)
        if model != options["model"]:
            assert state["contexts"] == {}
            continue
        (chunks,) = state["contexts"].values()
        assert [chunk["text"] for chunk in chunks if "a.txt" in chunk["sources"]] == ([text] if text else [])
        assert state["instructions"][-1] == options.get("instructions")
        assert state["orders"][-1] == options.get("order", "recency")
        assert state["chats"][-1]["seen"] == ({"a.txt": text} if text else {})

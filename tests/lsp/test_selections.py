"""Selections: the text that is selected, in whatever encoding, what it is called, and what is composed of it."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ctx_lsp.client.text_sync import line_count
from engine.chunk_frame import ChunkText, frame
from engine.types import ChunkKind
from tests.lsp.driver import Driver, EngineSetup, chat, edit
from tests.lsp.wire_client import LocalClient, RpcError

TEXT = "import os\n\n\ndef area(r):\n    return 3 * r\n"


def select(uri: str, start: tuple[int, int], end: tuple[int, int]) -> dict[str, Any]:
    return {"uri": uri, "range": edit(start, end, "")["range"]}


async def chunks(client: LocalClient) -> dict[str, dict[str, Any]]:
    return {chunk["name"]: chunk for chunk in (await client.request("ctx/chunks", {}))["chunks"]}


async def test_a_composition_of_chunks_and_selections(driver: Driver, engine: EngineSetup) -> None:
    client = await driver.start_ready()
    driver.open(client, "a.py", TEXT)
    driver.write("disk.py", "on\ndisk\n")
    selections = [select(driver.uri("a.py"), (3, 0), (5, 0)), select(driver.uri("disk.py"), (1, 0), (1, 4))]
    composed = await client.command("ctx.compose", name="both", refs=["a.py"], selections=selections)
    found = await chunks(client)
    assert [found[name]["kind"] for name in ("a.py:4-5", "disk.py:2")] == ["selection", "selection"]
    assert composed["parts"] == [found[name]["hash"] for name in ("a.py", "a.py:4-5", "disk.py:2")]
    texts = await engine.texts()
    assert (texts["a.py:4-5"], texts["disk.py:2"]) == ("def area(r):\n    return 3 * r\n", "disk")
    assert [found[name]["active"] for name in ("a.py:4-5", "disk.py:2", "both")] == [False, False, True]


async def test_a_selection_is_what_the_buffer_shows_and_stays_so(driver: Driver, engine: EngineSetup) -> None:
    client = await driver.start_ready()
    driver.open(client, "a.py", "old\n")
    driver.change(client, "a.py", 2, {"text": "new text\n"})
    await client.command("ctx.compose", name="c", selections=[select(driver.uri("a.py"), (0, 4), (0, 8))])
    driver.change(client, "a.py", 3, {"text": "newest\n"})
    await client.request("ctx/chat", chat())
    texts = await engine.texts()
    assert (texts["a.py"], texts["a.py:1"]) == ("newest\n", "text")


@pytest.mark.parametrize(("encoding", "start", "end"), [("utf-8", 5, 11), ("utf-16", 3, 6), ("utf-32", 2, 4)])
async def test_positions_are_in_the_agreed_encoding(
    driver: Driver, engine: EngineSetup, encoding: str, start: int, end: int
) -> None:
    client = driver.start_local()
    await driver.initialize(client, {"general": {"positionEncodings": [encoding]}})
    driver.open(client, "a.txt", "🙂 😀é!")
    await client.command("ctx.compose", name="c", selections=[select(driver.uri("a.txt"), (0, start), (0, end))])
    assert (await engine.texts())["a.txt:1"] == "😀é"


@pytest.mark.parametrize(
    ("name", "start", "end", "message"),
    [
        ("a.txt", (0, 2), (0, 2), "nothing is selected in a.txt"),
        ("a.txt", (9, 0), (12, 0), "nothing is selected in a.txt"),
        ("gone.txt", (0, 0), (1, 0), "gone.txt can't be read: no such file"),
    ],
)
async def test_what_can_not_be_selected(
    driver: Driver, name: str, start: tuple[int, int], end: tuple[int, int], message: str
) -> None:
    client = await driver.start_ready()
    driver.open(client, "a.txt", "one\ntwo\n")
    with pytest.raises(RpcError) as caught:
        await client.command("ctx.compose", name="c", selections=[select(driver.uri(name), start, end)])
    assert (caught.value.code, caught.value.data) == (-32803, {"code": "unusable_selection", "uri": driver.uri(name)})
    assert caught.value.message.endswith(message)
    assert list(await chunks(client)) == ["a.txt"]


async def test_positions_that_can_not_be(driver: Driver) -> None:
    client = await driver.start_ready()
    driver.open(client, "a.txt", "one\n")
    with pytest.raises(RpcError) as caught:
        await client.command("ctx.compose", name="c", selections=[select(driver.uri("a.txt"), (0, -1), (0, 2))])
    assert (caught.value.code, caught.value.message) == (-32602, "range: expected positions from 0 to 2147483647")


@given(st.lists(st.sampled_from(["a", "\n", "\r\n", "\r", "\f", "\u2028"]), min_size=1))
def test_lines_are_counted_as_lsp_counts_them(parts: list[str]) -> None:
    text = "".join(parts)
    unified = text.replace("\r\n", "\n").replace("\r", "\n")
    assert line_count(text) == unified.removesuffix("\n").count("\n") + 1


def test_a_selection_is_shown_in_the_language_of_its_document() -> None:
    shown = frame(ChunkText("pass\n", ("src/a.py:3-7",), ChunkKind.SELECTION, "src/a.py:3-7"))
    assert shown.startswith("Selection from: src/a.py:3-7\n```python\n")

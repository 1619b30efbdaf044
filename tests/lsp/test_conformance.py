"""lsprotocol's own valid and invalid messages: each is answered as often as it has to be, and the server lives."""

from __future__ import annotations

import asyncio
import json
import lzma
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from ctx_lsp.engines.process import EngineProcess
from tests.lsp.wire_client import LocalClient, Message

DATA = Path(__file__).parent / "data" / "lsprotocol-messages.jsonl.xz"
ENDING = ("initialize", "shutdown", "exit")
"""Methods whose every message needs a server of its own."""

SOUND_IDS = (1, 2**31 - 1, -(2**31), "string-id-1")
"""Those that lsprotocol calls valid; with one of these, an invalid request has invalid params."""

NAMING = ("initialize", "workspace/executeCommand", "workspace/textDocumentContent")
"""Methods whose params name what this server doesn't have: options, commands, documents."""


@dataclass(frozen=True)
class Case:
    """One message, whether lsprotocol calls it valid, and whether it is its params that aren't."""

    message: Message
    valid: bool
    has_bad_params: bool

    @classmethod
    def read(cls, line: str) -> tuple[str, Case]:
        """With its method, or its kind where it has none."""
        kind, valid, message = json.loads(line)
        is_sound = message.get("jsonrpc") == "2.0" and any(
            message.get("id") == id and type(message["id"]) is type(id) for id in SOUND_IDS
        )
        is_bad = not valid and is_sound and kind.endswith("Request") and not has_large_integer(message.get("params"))
        return message.get("method", kind), cls(message, valid, is_bad)

    def with_id(self, number: int) -> Case:
        """With another id of the same type, so that its answer is known from others."""
        if not names_itself(self.message):
            return self
        return replace(self, message={**self.message, "id": type(self.message["id"])(number)})


@cache
def corpus() -> dict[str, list[Case]]:
    """By method; those without one by their kind."""
    cases: dict[str, list[Case]] = defaultdict(list)
    for line in lzma.decompress(DATA.read_bytes()).decode().splitlines():
        name, case = Case.read(line)
        cases[name].append(case)
    return cases


@pytest.fixture(autouse=True)
def no_engine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CTX_LSP_RUNTIME_DIR", str(tmp_path))
    monkeypatch.setattr(EngineProcess, "find_or_start", never)


async def never(*_: Any) -> None:
    await asyncio.Event().wait()


async def initialized() -> LocalClient:
    client = LocalClient()
    params: dict[str, Any] = {"capabilities": {}, "processId": None, "rootUri": None}
    await client.request("initialize", params)
    return client


def has_large_integer(value: Any) -> bool:
    """Where the specification allows a string as well, lsprotocol's types take any integer."""
    if isinstance(value, dict | list):
        return any(map(has_large_integer, value.values() if isinstance(value, dict) else value))
    return isinstance(value, int) and not -(2**31) <= value < 2**31


def names_itself(message: Message) -> bool:
    """Whether an answer can say to what it is one."""
    return isinstance(message.get("id"), int | str) and not isinstance(message["id"], bool)


def answered_as(message: Message) -> list[Any]:
    """The ids of the answers that JSON-RPC demands: one or none."""
    own = [message["id"]] if names_itself(message) else [None]
    if message.get("jsonrpc") != "2.0":
        return own
    if "method" not in message:
        return [] if "id" in message else [None]  # an answer, or nothing at all
    return own if "id" in message else []


async def play(client: LocalClient, cases: Sequence[Case]) -> list[Message]:
    """The answers to these messages."""
    client.received.clear()
    for case in cases:
        client.send_raw(json.dumps(case.message).encode())
    client.send({"id": "played", "method": "no/suchMethod"})
    await client.wait_for(lambda message: message.get("id") == "played")
    while client.server.protocol.requests_running:
        await asyncio.sleep(0)
    return [message for message in client.received if "method" not in message and message["id"] != "played"]


def check(cases: Sequence[Case], answers: Sequence[Message], is_known: bool) -> None:
    wanted = Counter(id for case in cases for id in answered_as(case.message))
    assert Counter(answer["id"] for answer in answers) == wanted
    by_id = {answer["id"]: answer for answer in answers}
    for case in cases:
        if names_itself(case.message) and answered_as(case.message):
            code = by_id[case.message["id"]].get("error", {}).get("code")
            assert code in allowed(case, is_known), case


def allowed(case: Case, is_known: bool) -> set[int | None]:
    """The codes that the answer may have; None is that of a result."""
    if case.message.get("jsonrpc") != "2.0":
        return {-32600}
    if not is_known:
        return {-32601}
    if case.has_bad_params:
        return {-32602}
    if case.message["method"] in NAMING:
        return {None, -32602, -32803}
    return {None} if case.valid else {None, -32602}


@pytest.mark.parametrize("method", sorted(method for method in corpus() if method not in ENDING))
async def test_messages_are_answered_as_often_as_they_must_be(method: str) -> None:
    client = await initialized()
    features = client.server.protocol.fm
    is_known = method in {*features.features, *features.builtin_features}
    cases = [case.with_id(number) for number, case in enumerate(corpus()[method], 10_000)]
    check(cases, await play(client, cases), is_known)
    assert await client.request("ctx/status", {}), "the server lives"
    await client.close()


@pytest.mark.parametrize("method", ["initialize", "shutdown"])
async def test_each_beginning_and_end_is_answered_once(method: str) -> None:
    for number, case in enumerate(corpus()[method], 10_000):
        client = LocalClient() if method == "initialize" else await initialized()
        cases = [case.with_id(number)]
        check(cases, await play(client, cases), is_known=True)
        await client.close()


async def test_an_exit_ends_the_server_and_nothing_else_does() -> None:
    for case in corpus()["exit"]:
        client = await initialized()
        check([case], await play(client, [case]), is_known=True)
        assert client.server.protocol.exit_status.done()
        await client.close()

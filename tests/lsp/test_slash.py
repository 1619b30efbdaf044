"""Slash commands: reading a line, completing it, and what people see."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ctx_lsp import protocol
from ctx_lsp.client.text_sync import units
from ctx_lsp.commands import slash
from ctx_lsp.commands.slash_complete import Surroundings, complete
from ctx_lsp.protocol import (
    ChunkInfo,
    ClearParams,
    ComposeParams,
    LoadParams,
    MoveParams,
    NoParams,
    PlanParams,
    PopulateParams,
    RefsParams,
    SavedParams,
    TagParams,
)
from tests.lsp.driver import Driver, EngineSetup
from tests.lsp.wire_client import RpcError


@pytest.mark.parametrize(
    ("line", "target", "params"),
    [
        ("/load src 'with space.py' a\\ b", "ctx.load", LoadParams(paths=("src", "with space.py", "a b"))),
        ("  /context  ", "ctx.context", NoParams()),
        ("/activate #tests src/a.py", "ctx.activate", RefsParams(refs=("#tests", "src/a.py"))),
        ("/deactivate 12ab", "ctx.deactivate", RefsParams(refs=("12ab",))),
        ("/pin src/a.py #tests", "ctx.pin", RefsParams(refs=("src/a.py", "#tests"))),
        ("/unpin src/a.py", "ctx.unpin", RefsParams(refs=("src/a.py",))),
        ("/populate", "ctx.populate", PopulateParams(refs=None)),
        ("/populate a b", "ctx.populate", PopulateParams(refs=("a", "b"))),
        ('/compose "the tests" a b', "ctx.compose", ComposeParams(refs=("a", "b"), name="the tests")),
        ("/tag important a b", "ctx.tag", TagParams(refs=("a", "b"), tags=("important",))),
        ("/tag -important a", "ctx.tag", TagParams(refs=("a",), tags=("-important",))),
        ("/move a #b last", "ctx.move", MoveParams(refs=("a", "#b"), position=-1)),
        ("/move a 1", "ctx.move", MoveParams(refs=("a",), position=0)),
        ("/save bug 17", "ctx.save", SavedParams(name="bug 17")),
        ("/restore 'bug 17'", "ctx.restore", SavedParams(name="bug 17")),
        ("/saved", "ctx.saved", NoParams()),
        ("/forget parser", "ctx.forget", SavedParams(name="parser")),
        ("/stats", "ctx.stats", NoParams()),
        ("/delete a", "ctx.delete", RefsParams(refs=("a",))),
        ("/clear", "ctx.clear", ClearParams(conversation_id="c")),
        ("/clear outputs", "ctx.clear", ClearParams(scope="outputs", conversation_id="c")),
        ("/plan What's  this?", "ctx.plan", PlanParams(text="What's  this?", conversation_id="c")),
        ("/help load", "/help", ("load",)),
    ],
)
def test_lines_that_are_understood(line: str, target: str, params: Any) -> None:
    assert slash.parse(line, "c") == slash.SlashCall(target, params)


@pytest.mark.parametrize(
    ("line", "code", "message"),
    [
        ("/nope x", "unknown_command", "there is no command /nope; the commands are /load, /context"),
        ("/", "unknown_command", "there is no command /"),
        ("hello", "unknown_command", "there is no command hello"),
        ("/load", "invalid_slash_command", "usage: /load PATH… (load files, folders and globs)"),
        ("/compose name", "invalid_slash_command", "usage: /compose NAME CHUNK…"),
        ("/load 'open", "invalid_slash_command", "a quote is not closed: 'open"),
        (
            "/move a 0",
            "invalid_slash_command",
            "/move takes first, last, or a number from 1 as the last argument, not '0'",
        ),
        ("/clear everything", "invalid_slash_command", "/clear takes all, outputs, conversation, not 'everything'"),
    ],
)
def test_lines_that_are_not_say_why(line: str, code: str, message: str) -> None:
    with pytest.raises(slash.SlashError) as caught:
        slash.parse(line, "c")
    assert caught.value.code == code
    assert caught.value.message.startswith(message)


@given(arguments=st.lists(st.text(alphabet=st.characters(exclude_categories=["Cs", "Cc"]), min_size=1), min_size=1))
def test_what_is_quoted_is_read_back(arguments: list[str]) -> None:
    from ctx_lsp.commands.slash_complete import _quoted

    plain = [argument for argument in arguments if argument.isprintable()]
    assert slash.split(" ".join(map(_quoted, plain))) == plain


def test_every_command_of_the_protocol_has_a_slash_command() -> None:
    """But those on what is selected in an editor."""
    targets = {command.target for command in slash.COMMANDS.values()}
    commands = {name: method.params for name, method in protocol.METHODS.items() if method.kind == "command"}
    assert targets >= {
        name for name, params in commands.items() if "range" not in {f.name for f in attrs.fields(params)}
    }


def chunk(name: str, **fields: Any) -> ChunkInfo:
    values: dict[str, Any] = {
        "hash": "ab" * 32,
        "kind": "file",
        "name": name,
        "sources": (name,),
        "tags": (),
        "parts": (),
        "active": True,
        "tokens": 10,
        "warm_tokens": 0,
        "fidelity": "cold",
        "pinned": False,
    }
    return ChunkInfo(**(values | fields))


def paths(typed: str) -> Sequence[str]:
    return [path for path in ("src/", "src/main.py", "my file.py") if path.startswith(typed)]


SURROUNDINGS = Surroundings(
    chunks=(chunk("src/main.py", tags=("tests",), pinned=True), chunk("my file.py", active=False)),
    paths=paths,
    saved=lambda: ["bug 17", "parser"],
    units=lambda text: units(text, "utf-16"),
)


@pytest.mark.parametrize(
    ("line", "start", "inserted"),
    [
        ("/", 0, list(slash.COMMANDS)),
        ("/de", 0, ["/deactivate", "/delete"]),
        ("/load ", 6, ["src/", "src/main.py", '"my file.py"']),
        ("/load src/ma", 6, ["src/main.py"]),
        ("/load a 😀 s", 11, ["src/", "src/main.py"]),
        ("/load 'my f", 6, ['"my file.py"']),
        ("/load my\\ f", 6, ['"my file.py"']),
        ("/activate ", 10, ["src/main.py", '"my file.py"', "#tests"]),
        ("/activate main", 10, ["src/main.py"]),
        ("/activate #", 10, ["#tests"]),
        ("/compose x src", 11, ["src/main.py"]),
        ("/pin my", 5, ['"my file.py"']),
        ("/unp", 0, ["/unpin"]),
        ("/restore ", 9, ['"bug 17"', "parser"]),
        ("/forget pa", 8, ["parser"]),
        ("/clear o", 7, ["outputs"]),
        ("/help /lo", 6, ["/load"]),
        ("/nope x", 6, []),
        ("/context x", 9, []),
        ("no slash", 8, []),
        ("", 0, []),
    ],
)
def test_completions(line: str, start: int, inserted: list[str]) -> None:
    result = complete(line, SURROUNDINGS)
    assert (result.start, [item.insert_text for item in result.items]) == (start, inserted)


def test_completions_tell_what_they_are() -> None:
    items = {item.label: item.detail for item in complete("/activate ", SURROUNDINGS).items}
    assert items["my file.py"] == "abababab, 10 tokens, inactive"
    assert items["src/main.py"] == "abababab, 10 tokens, active, pinned"
    assert items["#tests"] == "1 tagged"


async def test_slash_commands_over_the_wire(driver: Driver, engine: EngineSetup) -> None:
    client = await driver.start_ready()
    driver.write("src/my file.py", "one two")
    loaded = await client.request("ctx/slash", {"text": "/load 'src/my file.py' nothing.py"})
    assert [chunk["name"] for chunk in loaded["data"]["loaded"]] == ["src/my file.py"]
    assert loaded["data"]["skipped"] == [{"path": "nothing.py", "reason": "no such file"}]
    assert "Loaded 1 file, 2 tokens." in loaded["markdown"]
    assert "- `nothing.py`: no such file" in loaded["markdown"]
    helped = await client.request("ctx/slash", {"text": "/help"})
    assert [command["name"] for command in helped["data"]["commands"]] == list(slash.COMMANDS)
    planned = await client.request("ctx/slash", {"text": "/plan three more words"})
    assert planned["data"]["tokens"] == 5
    assert "The answer would be **exact**, its first token in about 0.2 s." in planned["markdown"]
    assert "| src/my file.py | 2 | 2 | 0 | exact |  |" in planned["markdown"]
    await client.request("ctx/slash", {"text": "/pin 'src/my file.py'"})
    planned = await client.request("ctx/slash", {"text": "/plan three more words"})
    assert "| src/my file.py | 2 | 2 | 0 | exact | pinned |" in planned["markdown"]
    shown = await client.request("ctx/slash", {"text": "/context"})
    assert "| src/my file.py | 2 | exact | pinned |  |" in shown["markdown"]
    completed = await client.request("ctx/slash/complete", {"text": "/delete my"})
    assert completed == {
        "items": [
            {"label": "src/my file.py", "insertText": '"src/my file.py"', "detail": completed["items"][0]["detail"]}
        ],
        "start": 8,
    }
    with pytest.raises(RpcError) as caught:
        await client.request("ctx/slash", {"text": "/frobnicate"})
    assert (caught.value.code, caught.value.data["code"]) == (-32803, "unknown_command")
    assert caught.value.data["commands"] == list(slash.COMMANDS)


async def test_help_and_completion_need_no_engine(driver: Driver, engine: EngineSetup) -> None:
    engine.behave(exit_at_start=3)
    client = await driver.start()
    assert "/load PATH…" in (await client.request("ctx/slash", {"text": "/help /load"}))["markdown"]
    assert (await client.request("ctx/slash/complete", {"text": "/lo"}))["items"][0]["label"] == "/load"

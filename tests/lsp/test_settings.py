"""Settings that clients are asked for, push, and change while a session runs."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ctx_lsp.settings.options import nest, parse_options
from ctx_lsp.settings.settings import Settings
from ctx_lsp.wire import WireError
from tests.lsp.driver import CAPABILITIES, Driver, EngineSetup, chat, edit, eventually, ready
from tests.lsp.wire_client import LocalClient, RpcError

ASKED: dict[str, Any] = CAPABILITIES | {
    "workspace": {"configuration": True, "didChangeConfiguration": {"dynamicRegistration": True}}
}
GOOD: dict[str, Any] = {"debounceMs": 7, "documents": "manual", "files.maxTokens": 9, "instructions": "Be kind."}
WRONG: dict[str, Any] = {"debounceMs": "soon", "documents": 1, "files.maxTokens": -1, "instructions": []}


class Configured:
    """A client that is asked for its settings. `set` changes them and says so."""

    def __init__(self, client: LocalClient, settings: Any) -> None:
        self.client = client
        self.settings = settings
        client.replies["workspace/configuration"] = lambda params: [self.settings for _ in params["items"]]

    async def set(self, settings: Any) -> None:
        """Returns when the server has asked."""
        start = len(self.client.received)
        self.settings = settings
        self.client.notify("workspace/didChangeConfiguration", {"settings": None})
        await self.client.wait_for(lambda message: message.get("method") == "workspace/configuration", start)


async def configured(driver: Driver, settings: Any, **options: Any) -> Configured:
    client = driver.start_local()
    result = Configured(client, settings)
    await driver.initialize(client, ASKED, **options)
    return result


def refuse(_: Any) -> Any:
    raise RpcError({"code": -32603, "message": "not now"})


async def pushed(client: LocalClient, settings: Any) -> None:
    client.notify("workspace/didChangeConfiguration", {"settings": settings})


async def shows(client: LocalClient, text: str) -> None:
    await client.wait_notification("window/showMessage", lambda params: text in params["message"])


# -- which value counts ------------------------------------------------------------------------------------------------


@given(
    initial=st.sets(st.sampled_from(sorted(GOOD))),
    steps=st.lists(st.dictionaries(st.sampled_from(sorted(GOOD)), st.booleans())),
)
def test_a_wrong_value_counts_as_the_last_right_one(initial: set[str], steps: list[dict[str, bool]]) -> None:
    """A model: per key the configuration's last right value while the key is there, else that of `initialize`."""
    begin = {key: GOOD[key] for key in initial}
    settings = Settings(nest(begin))
    kept: dict[str, Any] = {}
    for step in steps:
        change = settings.configure(nest({key: GOOD[key] if right else WRONG[key] for key, right in step.items()}))
        kept = {key: GOOD[key] for key, right in step.items() if right or key in kept}
        assert settings.options == parse_options(nest(begin | kept)).options == change.after
        assert all(any(problem.startswith(key) for key in step) for problem in change.problems)


def test_a_wrong_value_is_told_until_it_changes() -> None:
    settings = Settings({})
    wrong = {"debounceMs": "soon"}
    assert settings.configure(wrong).problems == ('debounceMs: expected an integer, got "soon"',)
    assert settings.configure(wrong).problems == ()
    assert settings.configure({"debounceMs": -1}).problems == ("debounceMs: expected 0 or more",)
    assert settings.configure(None).problems == ()
    assert settings.configure(wrong).problems != ()


@pytest.mark.parametrize("configuration", [3, "x", [], True])
def test_a_configuration_that_is_no_object_changes_nothing(configuration: Any) -> None:
    settings = Settings({"debounceMs": 3})
    settings.configure({"debounceMs": 4})
    change = settings.configure(configuration)
    assert change.problems == ("expected an object",)
    assert settings.options.debounce_ms == 4


def test_wrong_initialization_options_are_refused() -> None:
    with pytest.raises(WireError):
        Settings({"debounceMs": "soon"})


# -- where settings come from ------------------------------------------------------------------------------------------


async def test_nothing_is_begun_before_the_client_told_its_settings(driver: Driver, engine: EngineSetup) -> None:
    told = await configured(driver, {"model": "configured"}, model="initial")
    await told.client.request("ctx/chat", chat())
    assert engine.infos().keys() == {"configured"}
    assert (await told.client.request("ctx/status", {}))["model"] == "configured"


@pytest.mark.parametrize("answer", [None, "no list", [], [None], [3]])
async def test_an_answer_without_settings_leaves_the_initialization_options(driver: Driver, answer: Any) -> None:
    client = driver.start_local()
    client.replies["workspace/configuration"] = lambda _: answer
    await driver.initialize(client, ASKED, model="initial")
    assert (await ready(client)).notifications("ctx/status/didChange")[-1]["model"] == "initial"


async def test_a_client_that_refuses_to_answer_leaves_the_settings(driver: Driver, engine: EngineSetup) -> None:
    told = await configured(driver, {"model": "configured"})
    await ready(told.client)
    told.client.replies["workspace/configuration"] = refuse
    await told.set(None)
    await told.client.wait_notification("window/logMessage", lambda params: "did not tell" in params["message"])
    assert (await told.client.request("ctx/status", {}))["model"] == "configured"


async def test_the_server_registers_for_changes_of_its_section(driver: Driver) -> None:
    told = await configured(driver, {})
    message = await told.client.wait_for(
        lambda message: (
            message.get("method") == "client/registerCapability"
            and message["params"]["registrations"][0]["method"] == "workspace/didChangeConfiguration"
        )
    )
    assert message["params"]["registrations"][0]["registerOptions"] == {"section": "ctx"}


async def test_a_client_that_only_pushes_is_heard(driver: Driver, engine: EngineSetup) -> None:
    client = await driver.start_ready()
    await pushed(client, {"python": {"model": "snake"}, "ctx": {"model": "pushed"}})
    await client.request("ctx/chunks", {})
    assert engine.infos().keys() == {"qwen2.5-coder-0.5b", "pushed"}


# -- what a change does ------------------------------------------------------------------------------------------------


async def test_another_model_gets_the_same_context(driver: Driver, engine: EngineSetup) -> None:
    client = await driver.start_ready()
    driver.open(client, "a.txt", "open text")
    driver.write("b.txt", "loaded text")
    await client.command("ctx.load", paths=["b.txt"])
    await client.command("ctx.tag", refs=["b.txt"], tags=["kept"])
    await client.request("ctx/chat", chat())
    first = engine.info()
    await pushed(client, {"ctx": {"model": "other"}})
    await client.wait_notification("ctx/status/didChange", lambda status: status["model"] == "other")
    chunks = {chunk["name"]: chunk for chunk in (await client.request("ctx/chunks", {}))["chunks"]}
    assert {"a.txt", "b.txt"} <= chunks.keys()
    assert any(chunk["kind"] == "output" for chunk in chunks.values())
    assert chunks["b.txt"]["tags"] == ["kept"]
    assert engine.infos().keys() == {first.model, "other"}
    (context,) = (await engine.state("other"))["contexts"].values()
    assert {name for chunk in context for name in chunk["sources"]} >= {"a.txt", "b.txt"}
    assert (await engine.state(first.model))["contexts"] == {}, "the old engine forgets the context"


async def test_an_answer_is_finished_by_the_engine_that_began_it(driver: Driver, engine: EngineSetup) -> None:
    client = await driver.start_ready()
    await engine.state(answer=["one ", "two"], stall_after=1)
    before = engine.info()
    asking = client.post("ctx/chat", chat())
    await client.wait_notification("ctx/chat/delta")
    start = len(client.received)
    await pushed(client, {"ctx": {"model": "other", "debounceMs": -1}})
    next_one = client.post("ctx/chat", chat(turn="t2", conversationId="another"))
    await client.wait_for(lambda message: message.get("method") == "window/showMessage", start)
    assert engine.info() == before
    await engine.state(stall_after=None)
    assert (await client.result(asking))["text"] == "one two"
    assert (await client.result(next_one))["text"] == "A plain answer.", "the next one is the new engine's"
    assert engine.infos().keys() == {before.model, "other"}
    assert [len((await engine.state(model))["chats"]) for model in (before.model, "other")] == [1, 1]


async def test_what_is_asked_behind_a_change_is_answered_by_it(driver: Driver, engine: EngineSetup) -> None:
    told = await configured(driver, {})
    await ready(told.client)
    told.settings = {"fidelity": "exact"}
    await pushed(told.client, None)
    await told.client.request("ctx/chat", chat())
    assert (await engine.state())["chats"][0]["body"]["fidelity"] == "exact"


async def test_whoever_waits_for_an_engine_that_loads_gets_the_one_that_takes_its_place(
    driver: Driver, engine: EngineSetup
) -> None:
    engine.behave(load_seconds=3600)
    client = await driver.start(model="slow")
    asking = client.post("ctx/chat", chat())
    await client.wait_notification("ctx/status/didChange", lambda status: status["state"] == "loading")
    engine.behave()
    await pushed(client, {"ctx": {"model": "quick"}})
    assert (await client.result(asking))["stopReason"] == "stop"


async def test_a_model_that_failed_is_put_right_by_a_setting(driver: Driver, engine: EngineSetup) -> None:
    engine.behave(load_error="no such model")
    client = await driver.start(model="wrong")
    await client.wait_notification("ctx/status/didChange", lambda status: status["state"] == "failed")
    engine.behave()
    await pushed(client, {"ctx": {"model": "right"}})
    await ready(client)


async def test_instructions_and_order_reach_the_running_context(driver: Driver, engine: EngineSetup) -> None:
    told = await configured(driver, {}, instructions="Be brief.")
    await ready(told.client)
    driver.open(told.client, "a.txt", "some text")
    await engine.wait_texts(lambda texts: "a.txt" in texts)

    async def said() -> tuple[Any, Any]:
        state = await engine.state()
        return state["instructions"][-1], state["orders"][-1]

    await told.set({"instructions": "Be kind.", "order": "fixed"})
    await eventually(said, lambda seen: seen == ("Be kind.", "fixed"))
    await told.set({"order": "fixed"})
    await eventually(said, lambda seen: seen == ("Be brief.", "fixed"))
    assert await engine.texts() == {"a.txt": "some text"}


async def test_instructions_that_are_taken_back_leave_the_engine_its_own(driver: Driver, engine: EngineSetup) -> None:
    told = await configured(driver, {"instructions": "Be kind."})
    await ready(told.client)
    await told.set({})

    async def instructions() -> Any:
        return (await engine.state())["instructions"]

    await eventually(instructions, lambda seen: seen[-1:] == [None])


async def test_documents_come_and_go_with_the_mode(driver: Driver, engine: EngineSetup) -> None:
    told = await configured(driver, {"documents": "manual"})
    await ready(told.client)
    driver.open(told.client, "a.txt", "some text")
    await told.client.request("ctx/chat", chat())
    assert (await engine.state())["chats"][0]["seen"] == {}
    await told.set({})
    await engine.wait_texts(lambda texts: texts.get("a.txt") == "some text")
    await told.set({"documents": "manual"})
    await engine.wait_texts(lambda texts: "a.txt" not in texts)


async def test_a_changed_debounce_counts_for_the_next_edit(driver: Driver, engine: EngineSetup) -> None:
    told = await configured(driver, {"debounceMs": 3_600_000})
    await ready(told.client)
    driver.open(told.client, "a.txt", "one")
    await engine.wait_texts(lambda texts: texts == {"a.txt": "one"})
    await told.set({"debounceMs": 1, "fidelity": "instant"})
    await told.client.request("ctx/chunks", {})
    driver.change(told.client, "a.txt", 2, edit((0, 0), (0, 3), "two"))
    await engine.wait_texts(lambda texts: texts == {"a.txt": "two"})
    await told.client.request("ctx/chat", chat())
    assert (await engine.state())["chats"][-1]["body"]["fidelity"] == "instant"


async def test_a_wrong_setting_is_shown_once_and_the_good_ones_count(driver: Driver, engine: EngineSetup) -> None:
    told = await configured(driver, {"debounceMs": "soon", "model": "good", "trace": {"server": "off"}})
    await shows(told.client, 'ctx.debounceMs: expected an integer, got "soon"')
    await ready(told.client)
    assert engine.infos().keys() == {"good"}
    await told.set({"debounceMs": "soon", "model": "good", "threads": 0})
    await shows(told.client, "ctx.threads: must be at least 1 or None")
    assert len(told.client.notifications("window/showMessage")) == 2


async def test_an_idle_timeout_says_that_it_counts_later(driver: Driver) -> None:
    client = await driver.start_ready()
    await pushed(client, {"ctx": {"idleTimeout": 5}})
    await client.wait_notification("window/logMessage", lambda params: "idleTimeout" in params["message"])

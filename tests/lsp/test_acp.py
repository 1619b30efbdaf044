"""`ctx-lsp acp` as a client of the Agent Client Protocol sees it: the SDK's client, the agent in a process."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from acp import RequestError, embedded_text_resource, image_block, resource_block, resource_link_block, text_block
from acp.client.connection import ClientSideConnection
from acp.schema import PromptResponse

from ctx_lsp.commands import slash
from tests.lsp.acp_client import AGENT, Recorder, agent_process
from tests.lsp.driver import EngineSetup, eventually

Agent = tuple[ClientSideConnection, Recorder]


@pytest.fixture
async def agent(engine: EngineSetup) -> AsyncIterator[Agent]:
    async with agent_process() as agent:
        yield agent


async def opened(agent: Agent, workspace: Path) -> str:
    """A session whose engine is there; what was said so far is forgotten."""
    client, recorder = agent
    session = (await client.new_session(cwd=str(workspace))).session_id
    await ask(client, session, text_block("/stats"))
    recorder.updates.clear()
    return session


async def ask(client: ClientSideConnection, session: str, *blocks: Any) -> PromptResponse:
    return await client.prompt(session_id=session, prompt=list(blocks))


async def last_chat(engine: EngineSetup) -> dict[str, Any]:
    chat: dict[str, Any] = (await engine.state())["chats"][-1]
    return chat


def question(chat: dict[str, Any]) -> str:
    content: str = chat["body"]["messages"][-1]["content"]
    return content


# -- sessions ----------------------------------------------------------------------------------------------------------


async def test_what_is_negotiated(engine: EngineSetup) -> None:
    async with agent_process() as (client, _):
        answer = await client.initialize(protocol_version=99)
    assert answer.protocol_version == 1
    assert answer.agent_capabilities is not None
    assert answer.agent_capabilities.load_session
    assert answer.agent_capabilities.prompt_capabilities is not None
    assert answer.agent_capabilities.prompt_capabilities.embedded_context
    assert answer.auth_methods == []


async def test_a_question_about_a_folder_is_answered_piece_by_piece(
    agent: Agent, engine: EngineSetup, workspace: Path
) -> None:
    (workspace / "a.py").write_text("def add(): ...\n")
    client, recorder = agent
    session = await opened(agent, workspace)
    await engine.state(answer=["It ", "adds."], thoughts=["Let me see."])
    await ask(client, session, text_block("/load a.py"))
    recorder.updates.clear()
    response = await ask(client, session, text_block("What does add do?"))
    assert response.stop_reason == "end_turn"
    assert (recorder.said("agent_thought_chunk"), recorder.said()) == ("Let me see.", "It adds.")
    (usage,) = recorder.of("usage_update")
    assert 0 < usage["used"] < usage["size"]
    chat = await last_chat(engine)
    assert (question(chat), chat["seen"]) == ("What does add do?", {"a.py": "def add(): ...\n"})


async def test_sessions_of_a_folder_share_chunks_but_not_their_history(
    agent: Agent, engine: EngineSetup, workspace: Path
) -> None:
    client, _ = agent
    first = (await client.new_session(cwd=str(workspace))).session_id
    second = (await client.new_session(cwd=str(workspace))).session_id
    await ask(client, first, text_block("one"))
    await ask(client, second, text_block("two"))
    assert len((await engine.state())["contexts"]) == 1
    assert [message["content"] for message in (await last_chat(engine))["body"]["messages"]] == ["two"]


async def test_a_conversation_is_loaded_again(engine: EngineSetup, workspace: Path) -> None:
    async with agent_process() as (client, _):
        session = (await client.new_session(cwd=str(workspace))).session_id
        await ask(client, session, text_block("What is this?"))
    async with agent_process() as (client, recorder):
        (listed,) = (await client.list_sessions(cwd=str(workspace))).sessions
        assert (listed.session_id, listed.cwd, listed.title) == (session, str(workspace), "What is this?")
        await client.load_session(cwd=str(workspace), session_id=session)
        assert recorder.said("user_message_chunk") == "What is this?"
        assert recorder.said() == "A plain answer."
        await ask(client, session, text_block("And now?"))
    messages = [message["content"] for message in (await last_chat(engine))["body"]["messages"]]
    assert messages == ["What is this?", "A plain answer.", "And now?"]


async def test_what_can_not_be_opened(agent: Agent, workspace: Path) -> None:
    client, _ = agent
    with pytest.raises(RequestError) as caught:
        await client.load_session(cwd=str(workspace), session_id="never")
    assert caught.value.code == -32002
    for folder in ("relative", str(workspace / "missing")):
        with pytest.raises(RequestError) as caught:
            await client.new_session(cwd=folder)
        assert caught.value.code == -32602
    with pytest.raises(RequestError) as caught:
        await ask(client, "never", text_block("hello"))
    assert caught.value.code == -32602


# -- turns -------------------------------------------------------------------------------------------------------------


async def test_what_a_question_is_about_stands_before_it(agent: Agent, engine: EngineSetup, workspace: Path) -> None:
    for name in ("linked.py", "buffered.py"):
        (workspace / name).write_text(f"disk of {name}")
    client, recorder = agent
    recorder.buffers[str(workspace / "buffered.py")] = "buffer of it"
    session = (await client.new_session(cwd=str(workspace))).session_id
    await ask(
        client,
        session,
        text_block("Compare "),
        resource_link_block("linked.py", (workspace / "linked.py").as_uri()),
        text_block(" and "),
        resource_link_block("buffered.py", (workspace / "buffered.py").as_uri()),
        resource_block(embedded_text_resource((workspace / "part.py").as_uri() + "#L3:4", "two lines\nof it")),
        resource_link_block("the manual", "https://example.org/manual"),
    )
    text = question(await last_chat(engine))
    assert text.endswith("Compare linked.py and buffered.pypart.py[the manual](https://example.org/manual)")
    assert "disk of linked.py" in text
    assert "buffer of it" in text
    assert "Selection from: part.py" in text
    assert "disk of buffered.py" not in text


async def test_pictures_are_refused(agent: Agent, workspace: Path) -> None:
    client, _ = agent
    session = (await client.new_session(cwd=str(workspace))).session_id
    with pytest.raises(RequestError, match="reads texts alone"):
        await ask(client, session, text_block("What is this?"), image_block("AAAA", "image/png"))


async def test_cancelling(agent: Agent, engine: EngineSetup, workspace: Path) -> None:
    client, recorder = agent
    session = await opened(agent, workspace)
    await engine.state(answer=["word "] * 50, stall_after=3)
    asking = asyncio.create_task(ask(client, session, text_block("Go on")))

    async def heard() -> str:
        return recorder.said()

    await eventually(heard, bool)
    await client.cancel(session_id=session)
    assert (await asking).stop_reason == "cancelled"

    async def end() -> Any:
        return (await last_chat(engine))["ended"]

    assert await eventually(end, lambda end: end is not None) == "cancelled"


async def test_the_engines_errors_are_told(agent: Agent, engine: EngineSetup, workspace: Path) -> None:
    client, _ = agent
    session = await opened(agent, workspace)
    await engine.state(error_after=1)
    with pytest.raises(RequestError, match="no room to go on") as caught:
        await ask(client, session, text_block("What?"))
    assert (caught.value.data or {})["code"] == "out_of_memory"


async def test_how_exact_answers_are_can_be_chosen(agent: Agent, engine: EngineSetup, workspace: Path) -> None:
    client, recorder = agent
    started = await client.new_session(cwd=str(workspace))
    assert started.modes is not None
    assert started.modes.current_mode_id == "auto"
    await client.set_session_mode(session_id=started.session_id, mode_id="exact")
    await ask(client, started.session_id, text_block("one"))
    assert (await last_chat(engine))["body"]["fidelity"] == "exact"
    assert recorder.of("config_option_update")[0]["configOptions"][0]["currentValue"] == "exact"
    await client.set_config_option(session_id=started.session_id, config_id="fidelity", value="instant")
    await ask(client, started.session_id, text_block("two"))
    assert (await last_chat(engine))["body"]["fidelity"] == "instant"
    assert recorder.of("current_mode_update")[0]["currentModeId"] == "instant"
    with pytest.raises(RequestError, match="Invalid params"):
        await client.set_session_mode(session_id=started.session_id, mode_id="vague")


async def test_what_an_answer_waits_for_is_shown(engine: EngineSetup, workspace: Path) -> None:
    engine.behave(load_seconds=2)
    async with agent_process() as (client, recorder):
        session = (await client.new_session(cwd=str(workspace))).session_id
        await ask(client, session, text_block("What?"))
    kinds = [update["sessionUpdate"] for update in recorder.updates]
    assert kinds.index("tool_call") < kinds.index("agent_message_chunk")
    (call,) = recorder.of("tool_call")
    assert call["title"].startswith(("Starting", "Looking", "Waiting", "Reading weights"))
    updates = recorder.of("tool_call_update")
    assert {update["toolCallId"] for update in updates} == {call["toolCallId"]}
    assert [update.get("status") for update in updates].count("completed") == 1


# -- slash commands ----------------------------------------------------------------------------------------------------


async def test_slash_commands_are_offered_and_carried_out(agent: Agent, engine: EngineSetup, workspace: Path) -> None:
    (workspace / "a.py").write_text("x = 1\n")
    client, recorder = agent
    session = (await client.new_session(cwd=str(workspace))).session_id
    await ask(client, session, text_block("/load a.py"))
    (offered,) = recorder.of("available_commands_update")
    started = next(n for n, message in enumerate(recorder.messages) if "sessionId" in (message.get("result") or {}))
    told = next(n for n, message in enumerate(recorder.messages) if message.get("method") == "session/update")
    assert started < told, "a client knows no session before it was answered"
    assert ["/" + command["name"] for command in offered["availableCommands"]] == list(slash.COMMANDS)
    assert recorder.said().startswith("Loaded 1 file")
    recorder.updates.clear()
    assert (await ask(client, session, text_block("/tag"))).stop_reason == "end_turn"
    assert recorder.said().startswith("usage: /tag")
    recorder.updates.clear()
    await ask(client, session, text_block("/prompt"))
    assert "x = 1" in recorder.said()
    await ask(client, session, text_block("/etc/hosts is what?"))
    assert question(await last_chat(engine)) == "/etc/hosts is what?"


# -- the wire ----------------------------------------------------------------------------------------------------------


async def test_what_is_no_message_is_refused_and_no_harm_is_done(engine: EngineSetup) -> None:
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(*AGENT, stdin=pipe, stdout=pipe)
    assert process.stdin is not None
    assert process.stdout is not None
    for line in ("nonsense", "[]", "", '{"jsonrpc":"2.0","id":7,"method":"no/such","params":{}}'):
        process.stdin.write(line.encode() + b"\n")
    answers = [json.loads(await process.stdout.readline()) for _ in range(3)]
    assert [(answer["id"], answer["error"]["code"]) for answer in answers] == [
        (None, -32700),
        (None, -32600),
        (7, -32601),
    ]
    process.stdin.close()
    assert await process.wait() == 0


async def test_hanging_up_in_the_middle_of_an_answer_ends_it(engine: EngineSetup, workspace: Path) -> None:
    engine.behave(answer=["word "] * 50, stall_after=3)
    async with agent_process() as (client, recorder):
        session = (await client.new_session(cwd=str(workspace))).session_id
        asking = asyncio.create_task(ask(client, session, text_block("Go on")))

        async def heard() -> str:
            return recorder.said()

        await eventually(heard, bool)
        await client.close()
        with pytest.raises(ConnectionError):
            await asking

    async def end() -> Any:
        return (await last_chat(engine))["ended"]

    assert await eventually(end, lambda end: end is not None) == "cancelled"


def test_it_starts_without_the_tensor_library() -> None:
    import subprocess

    code = "import sys, ctx_lsp.acp.main; sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0

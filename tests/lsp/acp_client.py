"""A client of the Agent Client Protocol: the SDK's own, with the agent in a process, every message of it checked.

`acp_schema.json` is the protocol's official schema, version 1, without its descriptions.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

from acp import RequestError, spawn_agent_process
from acp.client.connection import ClientSideConnection
from acp.connection import StreamDirection, StreamEvent
from acp.schema import ClientCapabilities, FileSystemCapabilities, ReadTextFileResponse
from jsonschema import Draft202012Validator

SCHEMA = json.loads((Path(__file__).parent / "acp_schema.json").read_text(encoding="utf-8"))
AGENT = (sys.executable, "-m", "ctx_lsp", "acp")

_RESULTS = {
    "initialize": "InitializeResponse",
    "session/new": "NewSessionResponse",
    "session/load": "LoadSessionResponse",
    "session/list": "ListSessionsResponse",
    "session/prompt": "PromptResponse",
    "session/set_mode": "SetSessionModeResponse",
    "session/set_config_option": "SetSessionConfigOptionResponse",
}
_PARAMS = {"session/update": "SessionNotification", "fs/read_text_file": "ReadTextFileRequest"}


class Recorder:
    """The client's side of a connection.

    Attributes:
        updates: what sessions told, in order.
        messages: all that went over the wire.
        buffers: texts by path that the editor has and the disk hasn't; None refuses.
    """

    def __init__(self) -> None:
        self.updates: list[dict[str, Any]] = []
        self.messages: list[dict[str, Any]] = []
        self.buffers: dict[str, str] = {}
        self._asked: dict[Any, str] = {}

    async def session_update(self, session_id: str, update: Any, **_: Any) -> None:
        self.updates.append(update.model_dump(mode="json", by_alias=True, exclude_none=True))

    async def read_text_file(self, session_id: str, path: str, **_: Any) -> ReadTextFileResponse:
        if path not in self.buffers:
            raise RequestError.resource_not_found(path)
        return ReadTextFileResponse(content=self.buffers[path])

    def on_connect(self, connection: Any) -> None:
        pass

    def of(self, kind: str) -> list[dict[str, Any]]:
        return [update for update in self.updates if update["sessionUpdate"] == kind]

    def said(self, kind: str = "agent_message_chunk") -> str:
        return "".join(update["content"]["text"] for update in self.of(kind))

    def check(self, event: StreamEvent) -> None:
        """Every message that the agent sends is what the schema says."""
        message = event.message
        self.messages.append(message)
        if event.direction is StreamDirection.OUTGOING:
            if "method" in message and "id" in message:
                self._asked[message["id"]] = message["method"]
            return
        _validate(message, {"anyOf": SCHEMA["anyOf"][:1]})
        if "method" in message:
            _validate(message["params"], {"$ref": f"#/$defs/{_PARAMS[message['method']]}"})
        elif "result" in message:
            _validate(message["result"], {"$ref": f"#/$defs/{_RESULTS[self._asked[message['id']]]}"})


def _validate(value: Any, schema: dict[str, Any]) -> None:
    Draft202012Validator(schema | {"$defs": SCHEMA["$defs"]}).validate(value)


@asynccontextmanager
async def agent_process() -> AsyncIterator[tuple[ClientSideConnection, Recorder]]:
    """An agent that was initialized by a client that can be asked for its buffers."""
    recorder = Recorder()
    failures: list[Exception] = []

    def observe(event: StreamEvent) -> None:
        try:
            recorder.check(event)
        except Exception as error:
            failures.append(error)

    spawned = spawn_agent_process(cast(Any, recorder), *AGENT, env=dict(os.environ), observers=[observe])
    async with spawned as (client, _):
        files = FileSystemCapabilities(read_text_file=True)
        await client.initialize(protocol_version=1, client_capabilities=ClientCapabilities(fs=files))
        yield client, recorder
    assert not failures, failures[0]

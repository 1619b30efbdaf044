"""The agent: which method of the Agent Client Protocol is answered by what of the core.

Knows sessions, each of which is one conversation about a workspace. What content blocks and notifications look like is
known elsewhere.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from acp import PROTOCOL_VERSION, RequestError
from acp.interfaces import Client
from acp.schema import (
    AgentCapabilities,
    ClientCapabilities,
    ConfigOptionUpdate,
    CurrentModeUpdate,
    Implementation,
    InitializeResponse,
    ListSessionsResponse,
    LoadSessionResponse,
    NewSessionResponse,
    PromptCapabilities,
    PromptResponse,
    SessionAdditionalDirectoriesCapabilities,
    SessionCapabilities,
    SessionInfo,
    SessionListCapabilities,
    SetSessionConfigOptionResponse,
    SetSessionModeResponse,
)

from ctx_lsp import __version__
from ctx_lsp.acp import blocks, fidelity
from ctx_lsp.acp.turns import AcpSession, Turns
from ctx_lsp.acp.updates import Updates
from ctx_lsp.acp.workspaces import Folders, Workspace, Workspaces
from ctx_lsp.chat.conversation import UnknownConversationError
from ctx_lsp.wire import WireError
from engine.errors import EngineError


class CtxAgent:
    """Answers one client, over the connection that `on_connect` is given."""

    def __init__(self, options: dict[str, Any]) -> None:
        """`options` are `InitializationOptions` as on the wire."""
        self._options = options
        self._sessions: dict[str, AcpSession] = {}
        self._can_read = False

    def on_connect(self, client: Client) -> None:
        self._client = client
        self._updates = Updates(client)
        self._turns = Turns(self._updates, self._read_buffer)
        self._workspaces = Workspaces(self._options, self._turns.on_delta)

    async def close(self) -> None:
        self._updates.close()
        await self._workspaces.close()

    # -- methods ---------------------------------------------------------------------------------------------------

    async def initialize(
        self, protocol_version: int, client_capabilities: ClientCapabilities | None = None, **_: Any
    ) -> InitializeResponse:
        """There is one version; a client of another one decides whether that will do."""
        files = client_capabilities.fs if client_capabilities is not None else None
        self._can_read = bool(files is not None and files.read_text_file)
        return InitializeResponse(
            protocol_version=PROTOCOL_VERSION,
            agent_info=Implementation(name="ctx-lsp", title="ctx-lsp", version=__version__),
            agent_capabilities=AgentCapabilities(
                load_session=True,
                prompt_capabilities=PromptCapabilities(embedded_context=True),
                session_capabilities=SessionCapabilities(
                    list=SessionListCapabilities(),
                    additional_directories=SessionAdditionalDirectoriesCapabilities(),
                ),
            ),
            auth_methods=[],
        )

    async def authenticate(self, method_id: str, **_: Any) -> None:
        raise RequestError.invalid_params({"message": "there is nothing to authenticate with, and no need to"})

    async def new_session(
        self, cwd: str, additional_directories: list[str] | None = None, **_: Any
    ) -> NewSessionResponse:
        session = self._start(uuid.uuid4().hex, self._workspace(cwd, additional_directories))
        return NewSessionResponse(session_id=session.id, **_choice(session))

    async def load_session(
        self, cwd: str, session_id: str, additional_directories: list[str] | None = None, **_: Any
    ) -> LoadSessionResponse:
        workspace = self._workspace(cwd, additional_directories)
        with _refusals():
            history = await workspace.chats.history(session_id)
        self._updates.put_turns(session_id, history.turns)
        await self._updates.sent()
        return LoadSessionResponse(**_choice(self._start(session_id, workspace)))

    async def list_sessions(self, cwd: str | None = None, cursor: str | None = None, **_: Any) -> ListSessionsResponse:
        """Of a folder, or of all that are open."""
        workspaces = self._workspaces.all() if cwd is None else [self._workspace(cwd, None)]
        sessions = []
        for workspace in workspaces:
            for info in await workspace.chats.conversations.list():
                folder = str(workspace.folders[0])
                sessions.append(
                    SessionInfo(session_id=info.conversation_id, cwd=folder, title=info.title, updated_at=info.updated)
                )
        return ListSessionsResponse(sessions=sessions)

    async def set_session_mode(self, session_id: str, mode_id: str, **_: Any) -> SetSessionModeResponse:
        session = self._choose(session_id, mode_id)
        options = fidelity.config_options(session.fidelity)
        self._updates.put(session_id, ConfigOptionUpdate(session_update="config_option_update", config_options=options))
        return SetSessionModeResponse()

    async def set_config_option(
        self, config_id: str, session_id: str, value: str | bool, **_: Any
    ) -> SetSessionConfigOptionResponse:
        if config_id != fidelity.OPTION:
            raise RequestError.invalid_params({"message": f"there is no option {config_id!r}"})
        session = self._choose(session_id, value)
        mode = CurrentModeUpdate(session_update="current_mode_update", current_mode_id=session.fidelity)
        self._updates.put(session_id, mode)
        return SetSessionConfigOptionResponse(config_options=fidelity.config_options(session.fidelity))

    async def prompt(self, session_id: str, prompt: list[blocks.Block], **_: Any) -> PromptResponse:
        session = self._session(session_id)
        with _refusals():
            return PromptResponse(stop_reason=await self._turns.run(session, blocks.read(prompt)))

    async def cancel(self, session_id: str, **_: Any) -> None:
        for task in self._session(session_id).running:
            task.cancel()

    async def _read_buffer(self, session_id: str, path: Path) -> str | None:
        """Where the client can't tell, or refuses, the disk may have it."""
        if not self._can_read:
            return None
        try:
            return (await self._client.read_text_file(session_id=session_id, path=str(path))).content
        except RequestError:
            return None

    # -- sessions --------------------------------------------------------------------------------------------------

    def _workspace(self, cwd: str, more: Sequence[str] | None) -> Workspace:
        folders: Folders = tuple(Path(folder) for folder in (cwd, *(more or ())))
        for folder in folders:
            if not folder.is_absolute() or not folder.is_dir():
                raise RequestError.invalid_params({"message": f"{folder} is not the absolute path of a folder"})
        with _refusals():
            return self._workspaces.open(folders)

    def _start(self, session_id: str, workspace: Workspace) -> AcpSession:
        """The commands are told behind the answer: nothing is awaited before that is on its way."""
        workspace.start()
        session = AcpSession(session_id, workspace, workspace.session.options.fidelity)
        self._sessions[session_id] = session
        self._updates.put_commands(session_id)
        return session

    def _session(self, session_id: str) -> AcpSession:
        if session_id not in self._sessions:
            raise RequestError.invalid_params({"message": f"there is no session {session_id!r}"})
        return self._sessions[session_id]

    def _choose(self, session_id: str, value: object) -> AcpSession:
        session = self._session(session_id)
        session.fidelity = fidelity.chosen(value)
        return session


@contextmanager
def _refusals() -> Iterator[None]:
    """The core's errors as the protocol's; `data.code` is the core's."""
    try:
        yield
    except UnknownConversationError as error:
        raise RequestError(-32002, error.message, {"code": error.code}) from error
    except EngineError as error:
        raise RequestError(-32603, error.message, {"code": error.code, **error.data}) from error
    except WireError as error:
        raise RequestError(-32602, str(error)) from error


def _choice(session: AcpSession) -> dict[str, Any]:
    return {"modes": fidelity.modes(session.fidelity), "config_options": fidelity.config_options(session.fidelity)}

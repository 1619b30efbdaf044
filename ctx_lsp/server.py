"""The language server of one client: which method is answered by what. Wiring only.

Everything a handler does is in `session`, and in the packages `chat`, `commands`, `surface` and `workspace`.
"""

from __future__ import annotations

import asyncio
import logging
from functools import partial
from pathlib import Path
from typing import Any

from lsprotocol import types
from pygls.lsp.server import LanguageServer

from ctx_lsp import __version__, capabilities, protocol, wire
from ctx_lsp.chat.chat import Chats
from ctx_lsp.chat.chat_requests import NAMES as CHAT_REQUESTS
from ctx_lsp.chat.chat_requests import ChatRequests
from ctx_lsp.client import text_sync
from ctx_lsp.client.editor import Editor
from ctx_lsp.client.lsp_client import LspClient
from ctx_lsp.commands import slash_complete, slash_lines
from ctx_lsp.commands.commands import Commands
from ctx_lsp.commands.slash_complete import Surroundings
from ctx_lsp.protocol import ChunksResult, CommandResult, SlashCompleteResult
from ctx_lsp.rpc import parent
from ctx_lsp.rpc.access_token import AccessToken, UnauthorizedError
from ctx_lsp.rpc.jsonrpc import Phase, Protocol, make_converter
from ctx_lsp.session import Session
from ctx_lsp.surface.surface import Surface
from ctx_lsp.workspace import workspace_files
from ctx_lsp.workspace.document_events import DocumentEvents
from ctx_lsp.workspace.sources import path_of

logger = logging.getLogger(__name__)


class Server:
    """One client's server. `session` exists from `initialize` on.

    With a `token`, only a client that knows it is served. One that `follows_parent` ends when the process of the client
    does.
    """

    def __init__(self, token: AccessToken | None = None, *, follows_parent: bool = False) -> None:
        self.language_server = LanguageServer(
            "ctx-lsp",
            __version__,
            notebook_document_sync=capabilities.NOTEBOOKS,
            protocol_cls=Protocol,
            converter_factory=make_converter,
        )
        self.protocol: Protocol = self.language_server.protocol  # type: ignore[assignment]
        self._token = token
        self._follows_parent = follows_parent
        self._parent: asyncio.Task[None] | None = None
        self._root: str | None = None
        self._session: Session | None = None
        self._chats: Chats | None = None
        self._chat_requests: ChatRequests | None = None
        self._commands: Commands | None = None
        self._surface: Surface | None = None
        self._register()

    async def close(self) -> None:
        if self._parent is not None:
            self._parent.cancel()
        await self.protocol.cancel_all()
        if self._surface is not None:
            self._surface.stop()
        if self._session is not None:
            await self._session.close()

    def end_stranger(self) -> None:
        """Hangs up on a client that has not initialized by now."""
        if self.protocol.phase is Phase.CREATED:
            self.protocol.end(1)

    @property
    def session(self) -> Session:
        assert self._session is not None, "the protocol lets nothing through before initialize"
        return self._session

    @property
    def chats(self) -> Chats:
        assert self._chats is not None
        return self._chats

    @property
    def commands(self) -> Commands:
        assert self._commands is not None
        return self._commands

    @property
    def surface(self) -> Surface:
        assert self._surface is not None
        return self._surface

    # -- wiring ----------------------------------------------------------------------------------------------------

    def _register(self) -> None:
        features: dict[str, Any] = {
            types.INITIALIZE: self._initialize,
            types.INITIALIZED: lambda _: self.session.start(),
            types.SHUTDOWN: lambda *_: self.session.close(),
            **DocumentEvents(lambda: self.session).table(),
            types.TEXT_DOCUMENT_DID_CLOSE: self._closed,
            types.WORKSPACE_DID_CHANGE_CONFIGURATION: lambda params: self.session.configuration.did_change(params),
            types.WORKSPACE_DID_CHANGE_WORKSPACE_FOLDERS: lambda _: self.session.workspace.folders_changed(
                self._folders()
            ),
            types.WINDOW_WORK_DONE_PROGRESS_CANCEL: lambda params: self.session.editor.cancel_progress(params.token),
            **{name: partial(self._chat_request, name) for name in CHAT_REQUESTS},
            types.TEXT_DOCUMENT_CODE_LENS: lambda params: self.surface.code_lens(params),
            types.TEXT_DOCUMENT_HOVER: lambda params: self.surface.hover(params),
            types.TEXT_DOCUMENT_CODE_ACTION: lambda params: self.surface.code_actions(params),
            types.WORKSPACE_TEXT_DOCUMENT_CONTENT: lambda params: self.surface.contents.read_shown(params.uri),
            protocol.CONTENT: lambda params: self.surface.contents.read(params.uri),
            protocol.CHUNKS: self._chunks,
            protocol.STATUS: lambda _: self.session.status.status,
            protocol.PLAN: lambda params: self.chats.plan(params),
            protocol.SLASH: self._slash,
            protocol.SLASH_COMPLETE: self._slash_complete,
        }
        for method, handler in features.items():
            self.language_server.feature(method, capabilities.OPTIONS.get(method))(_plain(handler))
        for command in (method.name for method in protocol.METHODS.values() if method.kind == "command"):
            self.language_server.command(command)(_plain(partial(self._command, command)))

    def _initialize(self, params: types.InitializeParams) -> None:
        self._check_token(params.initialization_options)
        self._root = params.root_uri
        if self._follows_parent and params.process_id is not None:
            self._parent = asyncio.create_task(self._follow_parent(params.process_id))
        encoding = types.PositionEncodingKind(self.language_server.workspace.position_encoding or "utf-16").value
        editor = Editor(LspClient(self.language_server))
        try:
            session = Session(editor, params.initialization_options, self._folders(), encoding)
        except wire.WireError as error:
            raise wire.WireError([f"initializationOptions.{problem}" for problem in error.problems]) from None
        self._session = session
        self._root = None  # a client that takes its last folder away has none
        self._chats = Chats(session, lambda delta: editor.notify(protocol.CHAT_DELTA, delta))
        self._chat_requests = ChatRequests(session, self._chats)
        self._commands = Commands(session, self._chats)
        self._surface = Surface(session, self._chats)

    def _check_token(self, options: Any) -> None:
        """Raises UnauthorizedError, and hangs up behind it."""
        if self._token is None:
            return
        try:
            self._token.check(options.get("token") if isinstance(options, dict) else None)
        except UnauthorizedError:
            asyncio.get_running_loop().call_soon(self.protocol.end, 1)
            raise

    async def _follow_parent(self, pid: int) -> None:
        await parent.gone(pid)
        self.protocol.end(1)

    def _folders(self) -> list[Path]:
        workspace = self.language_server.workspace
        uris = [folder.uri for folder in workspace.folders.values()] or [self._root or ""]
        return [path for path in map(path_of, uris) if path is not None]

    # -- handlers --------------------------------------------------------------------------------------------------

    def _closed(self, params: types.DidCloseTextDocumentParams) -> None:
        self.session.workspace.closed(params.text_document.uri)
        self.surface.contents.closed(params.text_document.uri)

    async def _chunks(self, _: Any) -> ChunksResult:
        async with self.session.engine() as client:
            return await self.session.context.refresh(client)

    async def _chat_request(self, name: str, params: Any) -> Any:
        assert self._chat_requests is not None
        return await self._chat_requests.table()[name](params)

    async def _command(self, name: str, params: Any) -> CommandResult:
        return await self._table()[name](params)

    async def _slash(self, params: protocol.SlashParams) -> CommandResult:
        return await slash_lines.carry_out(params, self._table())

    def _table(self) -> slash_lines.Table:
        return self.commands.table() | self.surface.commands.table()

    async def _slash_complete(self, params: protocol.SlashCompleteParams) -> SlashCompleteResult:
        session = self.session
        surroundings = Surroundings(
            chunks=session.context.state.chunks,
            paths=lambda typed: workspace_files.complete_path(typed, session.sources.base),
            saved=self.commands.saved_names,
            units=lambda text: text_sync.units(text, session.encoding),
        )
        return await asyncio.to_thread(slash_complete.complete, params.text, surroundings)


def _plain(handler: Any) -> Any:
    """pygls marks handlers with attributes, which bound methods don't take."""
    return partial(handler)

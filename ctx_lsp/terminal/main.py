"""`ctx-lsp chat`: a conversation in the terminal, over the same server and protocol that editors use.

Reads a line, sends it as a question or a slash command, shows what comes back. No token work happens here.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Coroutine
from typing import Any, TypeVar

from prompt_toolkit.patch_stdout import patch_stdout
from rich.console import Console
from rich.markdown import Markdown
from rich.markup import escape

from ctx_lsp import __version__
from ctx_lsp.protocol import ChatResult, LoadResult
from ctx_lsp.terminal.answer import AnswerWriter
from ctx_lsp.terminal.client import ServerError, ServerGoneError
from ctx_lsp.terminal.once import EXIT_FAILED, EXIT_INTERRUPTED, EXIT_OK, ask_once
from ctx_lsp.terminal.options import ChatOptions
from ctx_lsp.terminal.progress import ProgressView
from ctx_lsp.terminal.prompt import InterruptedByUser, Prompt
from ctx_lsp.terminal.render import figures, load_summary, short_path, skipped_lines
from ctx_lsp.terminal.session import Notice, Session
from ctx_lsp.wire import WireError

T = TypeVar("T")

LEAVE = ("/quit", "/exit")
HINT = "Ask anything. /help lists the commands, Ctrl-C stops an answer, Ctrl-D leaves."


def run(options: ChatOptions) -> int:
    """Run the chat to its end. Returns the exit code."""
    try:
        return asyncio.run(ask_once(options) if options.question is not None else _converse(options))
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED


async def _converse(options: ChatOptions) -> int:
    screen = Screen()
    screen.say(f"[bold]ctx-lsp[/bold] {__version__} · {escape(short_path(options.settings.workspace))}")
    try:
        with ProgressView(screen.err, "Starting"):
            session = await Session.open(options.settings)
        try:
            await Conversation(session, options, screen).run()
        finally:
            await session.close()
    except (ServerError, ServerGoneError, WireError) as error:
        screen.complain(str(error))
        return EXIT_FAILED
    return EXIT_OK


class Screen:
    """Where things are written: words and answers to stdout, progress and errors to stderr."""

    def __init__(self) -> None:
        self.out = Console(highlight=False)
        self.err = Console(stderr=True, highlight=False)

    def say(self, markup: str) -> None:
        self.out.print(markup, soft_wrap=True)

    def complain(self, message: str) -> None:
        self.err.print(f"error: {message}", style="red", markup=False, soft_wrap=True)

    def warn(self, message: str) -> None:
        self.out.print(message, style="yellow", markup=False, soft_wrap=True)

    def notice(self, notice: Notice) -> None:
        if notice.severity <= 2:
            self.warn(notice.message)


class Conversation:
    """Reads lines and answers them until Ctrl-D."""

    def __init__(self, session: Session, options: ChatOptions, screen: Screen) -> None:
        self._session = session
        self._options = options
        self._screen = screen
        self._prompt = Prompt(session)
        session.on_notice = screen.notice

    async def run(self) -> None:
        with self._prompt.owning_keys():
            await self._welcome()
            while (text := await self._read()) is not None:
                if text:
                    await self._turn(text)

    async def _read(self) -> str | None:
        """The next line, or None to leave."""
        try:
            with patch_stdout(raw=True):
                text = await self._prompt.read()
        except EOFError:
            return None
        return None if text in LEAVE else text

    async def _welcome(self) -> None:
        try:
            loaded = await self._work("Starting the model", self._load())
        except InterruptedByUser:
            self._screen.say("[dim]Nothing loaded. /load brings files in.[/dim]")
        except ServerError as error:
            self._screen.complain(error.message)
        else:
            self._screen.say(load_summary(loaded, self._session.status))
            for line in skipped_lines(loaded.skipped) if self._options.files else ():
                self._screen.warn(line)
        self._screen.say(f"[dim]{HINT}[/dim]\n")

    async def _load(self) -> LoadResult:
        loaded = LoadResult(loaded=(), skipped=())
        if self._options.files or self._options.discover:
            loaded = await self._session.load(self._options.files, discover=self._options.discover)
        else:
            await self._session.wake()
        await self._session.refresh()
        return loaded

    async def _turn(self, text: str) -> None:
        try:
            await (self._slash(text) if text.startswith("/") else self._ask(text))
        except InterruptedByUser:
            self._screen.say("[dim]stopped[/dim]")
        except ServerError as error:
            self._screen.complain(error.message)
        self._screen.say("")

    async def _slash(self, text: str) -> None:
        result = await self._work(text, self._session.slash(text))
        self._screen.out.print(Markdown(result.markdown, code_theme="ansi_dark"))

    async def _ask(self, text: str) -> None:
        self._screen.say("")
        with ProgressView(self._screen.err, "Thinking") as view:
            answer = AnswerWriter(view, thoughts=sys.stdout)
            self._session.on_step = view.show
            asking = self._session.ask(text, answer.write, sampling=self._options.sampling)
            try:
                result: ChatResult = await self._prompt.interruptible(asking)
            finally:
                answer.finish()
        self._screen.say(f"\n[dim]{figures(result)}[/dim]")

    async def _work(self, message: str, work: Coroutine[Any, Any, T]) -> T:
        """Something that may take long, with its progress in view; Ctrl-C ends it and raises InterruptedByUser."""
        with ProgressView(self._screen.err, message) as view:
            self._session.on_step = view.show
            return await self._prompt.interruptible(work)

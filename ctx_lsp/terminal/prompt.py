"""The line a question is typed into: history, completion of slash commands, the status line below, and the keys.

Also `interruptible`, which lets Ctrl-C end one piece of work instead of the program. Knows `Session`, prints nothing.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncGenerator, Coroutine, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, TypeVar

from prompt_toolkit import PromptSession
from prompt_toolkit.completion import CompleteEvent, Completer, Completion
from prompt_toolkit.document import Document
from prompt_toolkit.formatted_text import HTML, StyleAndTextTuples
from prompt_toolkit.history import FileHistory, History, InMemoryHistory
from prompt_toolkit.input import Input
from prompt_toolkit.input.typeahead import store_typeahead
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
from prompt_toolkit.keys import Keys
from prompt_toolkit.styles import Style

from ctx_lsp import protocol
from ctx_lsp.state_folder import make_private, state_folder
from ctx_lsp.terminal.client import ServerError, ServerGoneError
from ctx_lsp.terminal.session import Session

T = TypeVar("T")

_STYLE = Style.from_dict(
    {
        "prompt": "ansicyan bold",
        "bottom-toolbar": "noreverse ansibrightblack",
        "bottom-toolbar.failed": "ansired",
        "completion-menu.meta.completion": "",
    }
)


class InterruptedByUser(Exception):
    """Ctrl-C ended the work."""


class Prompt:
    """Reads questions, and runs work between them that Ctrl-C can end."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._prompt: PromptSession[str] = PromptSession(
            message=HTML("<prompt>❯ </prompt>"),
            style=_STYLE,
            history=_history(),
            completer=SlashCompleter(session),
            complete_while_typing=True,
            reserve_space_for_menu=6,
            bottom_toolbar=lambda: status_line(session.status),
            key_bindings=_keys(),
            multiline=True,
            prompt_continuation="  ",
        )
        session.on_status = lambda _: self._prompt.app.invalidate()

    def owning_keys(self) -> AbstractContextManager[None]:
        """Around a whole conversation: no key is echoed, and Ctrl-C is a key at any moment, never a signal.

        A signal would also go to whatever started this program (`make` would end at it), and could fall between two
        lines of this code.
        """
        return self._prompt.input.raw_mode()

    async def read(self) -> str:
        """The next line. Raises EOFError on Ctrl-D."""
        return (await self._prompt.prompt_async()).strip()

    async def interruptible(self, work: Coroutine[Any, Any, T]) -> T:
        """Run `work`; Ctrl-C cancels it and raises InterruptedByUser. Other keys wait for the next prompt."""
        task = asyncio.ensure_future(work)
        with _watch_keys(self._prompt.input, task):
            return await interruptible(task)


async def interruptible(task: asyncio.Future[T]) -> T:
    """Wait for `task`; SIGINT cancels it and raises InterruptedByUser."""
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGINT, task.cancel)
    try:
        return await task
    except asyncio.CancelledError:
        current = asyncio.current_task()
        if current is not None and current.cancelling():
            raise  # not the work alone: everything is being ended
        raise InterruptedByUser from None
    finally:
        loop.remove_signal_handler(signal.SIGINT)


@contextmanager
def _watch_keys(keyboard: Input, task: asyncio.Future[Any]) -> Iterator[None]:
    """Cancel the task on Ctrl-C; keep the other keys."""

    def on_input() -> None:
        presses = keyboard.read_keys()
        if any(press.key == Keys.ControlC for press in presses):
            task.cancel()
        store_typeahead(keyboard, [press for press in presses if press.key != Keys.ControlC])

    with keyboard.attach(on_input):
        yield


class SlashCompleter(Completer):
    """Asks the server what could follow a line that begins with a slash."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def get_completions(self, document: Document, complete_event: CompleteEvent) -> Iterator[Completion]:
        return iter(())  # only the asynchronous form can ask the server

    async def get_completions_async(
        self, document: Document, complete_event: CompleteEvent
    ) -> AsyncGenerator[Completion, None]:
        text = document.text_before_cursor
        if not text.startswith("/"):
            return
        try:
            answer = await self._session.complete(text)
        except (ServerError, ServerGoneError):
            return  # no completions; the next request that matters reports it
        start = -len(text.encode("utf-16-le")[answer.start * 2 :].decode("utf-16-le"))
        for item in answer.items:
            yield Completion(item.insert_text, start_position=start, display=item.label, display_meta=item.detail)


def status_line(status: protocol.Status) -> StyleAndTextTuples:
    """One calm line: the model, what it is doing, how full the context is."""
    if status.state == "failed":
        return [("class:bottom-toolbar.failed", f" {status.message}")]
    parts = [status.model or "", status.device or ""]
    if status.state != "ready":
        percent = "" if status.progress is None else f" {status.progress:.0%}"
        parts.append((status.message or status.state) + percent)
    if status.limit:
        parts.append(f"{status.active_tokens:,} of {status.limit:,} tokens")
    if (populate := status.populate) and populate.done < populate.total:
        verb = "warming" if populate.phase == "populate" else "refining"
        parts.append(f"{verb} {populate.done / populate.total:.0%}")
    return [("", " " + " · ".join(part for part in parts if part))]


def _history() -> History:
    """Questions of earlier chats; kept in memory alone where the file can't be written."""
    path = state_folder() / "history"
    try:
        make_private(path.parent)
        path.touch(mode=0o600)
    except OSError:
        return InMemoryHistory()
    return FileHistory(str(path))


def _keys() -> KeyBindings:
    keys = KeyBindings()

    @keys.add("enter")
    def _(event: KeyPressEvent) -> None:
        event.current_buffer.validate_and_handle()

    @keys.add("escape", "enter")
    def _(event: KeyPressEvent) -> None:
        event.current_buffer.insert_text("\n")

    @keys.add("c-c")
    @keys.add("<sigint>")
    def _(event: KeyPressEvent) -> None:
        event.current_buffer.reset()

    return keys

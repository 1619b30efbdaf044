"""`ctx-lsp chat --ask`: one question or slash command, no conversation. Answers go to stdout, all else to stderr.

Meant for scripts: an exit code, no styles where stdout is no terminal, and with `--json` exactly one object.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from typing import Any

import attrs
from rich.console import Console
from rich.markdown import Markdown

from ctx_lsp import protocol
from ctx_lsp.terminal.answer import AnswerWriter
from ctx_lsp.terminal.client import ServerError, ServerGoneError
from ctx_lsp.terminal.options import ChatOptions
from ctx_lsp.terminal.progress import ProgressView
from ctx_lsp.terminal.prompt import InterruptedByUser, interruptible
from ctx_lsp.terminal.render import figures, skipped_lines
from ctx_lsp.terminal.session import Notice, Session
from ctx_lsp.wire import WireError

EXIT_OK, EXIT_FAILED, EXIT_INTERRUPTED = 0, 1, 130


async def ask_once(options: ChatOptions) -> int:
    """Ask `options.question` and print the answer. Returns the exit code."""
    console = Console(stderr=True, highlight=False)
    try:
        answer = await interruptible(asyncio.ensure_future(_ask(options, console)))
    except InterruptedByUser:
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or the interpreter complains at its end
        return EXIT_FAILED
    except (ServerError, ServerGoneError, WireError) as error:
        _report(error, options, console)
        return EXIT_FAILED
    if options.as_json:
        print(json.dumps(answer, ensure_ascii=False))
    return EXIT_OK


async def _ask(options: ChatOptions, console: Console) -> dict[str, Any]:
    assert options.question is not None
    with ProgressView(console, "Starting") as view:
        session = await Session.open(options.settings)
        try:
            session.on_step = view.show
            session.on_notice = lambda notice: _notice(notice, console)
            loaded = await _load(session, options, console)
            if options.question.startswith("/"):
                return await _slash(session, options, view)
            result = await _answer(session, options, view)
            view.stop()
            console.print(figures(result), style="dim", soft_wrap=True)
            return _everything(await session.refresh(), loaded, result)
        finally:
            await session.close()


async def _load(session: Session, options: ChatOptions, console: Console) -> protocol.LoadResult:
    if not (options.files or options.discover):
        return protocol.LoadResult(loaded=(), skipped=())
    loaded = await session.load(options.files, discover=options.discover)
    if options.files:
        for line in skipped_lines(loaded.skipped):
            console.print(line, style="yellow", markup=False, soft_wrap=True)
    if options.files and not loaded.loaded:
        raise ServerError(protocol.REQUEST_FAILED, "none of the files could be loaded", {"code": "nothing_loaded"})
    return loaded


async def _slash(session: Session, options: ChatOptions, view: ProgressView) -> dict[str, Any]:
    assert options.question is not None
    result = await session.slash(options.question)
    view.stop()
    if not options.as_json:
        Console(highlight=False).print(Markdown(result.markdown, code_theme="ansi_dark"))
    return attrs.asdict(result)


async def _answer(session: Session, options: ChatOptions, view: ProgressView) -> protocol.ChatResult:
    assert options.question is not None
    writer = AnswerWriter(view, thoughts=sys.stderr if sys.stderr.isatty() else None)
    on_delta = _ignore if options.as_json else writer.write
    asking = asyncio.ensure_future(session.ask(options.question, on_delta, sampling=options.sampling))
    writer.on_broken = asking.cancel
    try:
        return await asking
    except asyncio.CancelledError:
        if writer.broken:
            raise BrokenPipeError from None
        raise
    finally:
        if not options.as_json:
            writer.finish()


def _ignore(_: str, __: protocol.DeltaKind) -> None:
    pass


def _notice(notice: Notice, console: Console) -> None:
    if notice.severity <= 2:
        console.print(notice.message, style="yellow", markup=False, soft_wrap=True)


def _report(error: ServerError | ServerGoneError | WireError, options: ChatOptions, console: Console) -> None:
    console.print(f"ctx-lsp: {error}", style="red", markup=False, soft_wrap=True)
    if options.as_json:
        data = dict(error.data) if isinstance(error, ServerError) else {}
        code = data.pop("code", "server_error" if isinstance(error, ServerError) else "server_gone")
        print(json.dumps({"error": {"code": code, "message": str(error), "data": data}}, ensure_ascii=False))


def _everything(status: protocol.Status, loaded: protocol.LoadResult, result: protocol.ChatResult) -> dict[str, Any]:
    """The answer and all figures, names as in Python."""
    figures = attrs.asdict(result)
    del figures["turn_id"], figures["conversation_id"]
    return {
        "answer": figures.pop("text"),
        "model": status.model,
        "device": status.device,
        **figures,
        "context": {"active_tokens": status.active_tokens, "limit": status.limit},
        "loaded": [attrs.asdict(chunk) for chunk in loaded.loaded],
        "skipped": [attrs.asdict(skipped) for skipped in loaded.skipped],
    }

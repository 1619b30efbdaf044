"""Slash commands: a line of text to params of a command, and what could be typed next.

One table says all there is to say about each command. Knows commands, not what they do.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, get_args

from ctx_lsp import protocol
from ctx_lsp.client.content_uris import prompt_uri
from ctx_lsp.protocol import (
    ChunkInfo,
    ClearParams,
    ClearScope,
    ComposeParams,
    LoadParams,
    MoveParams,
    NoParams,
    PlanParams,
    PopulateParams,
    RefsParams,
    SavedParams,
    ShowParams,
    SlashUsage,
    TagParams,
)
from engine.errors import EngineError

HELP = "/help"


class SlashError(EngineError):
    """The line is no slash command that could be carried out; the message shows how to write it."""

    code = "invalid_slash_command"
    status = 400


class UnknownSlashError(SlashError):
    """No command has this name; `data["commands"]` lists those there are."""

    code = "unknown_command"
    status = 404


@dataclass(frozen=True)
class SlashCall:
    """A line that was understood: `target` is a command's name in `protocol.METHODS`, or `/help`."""

    target: str
    params: Any


@dataclass(frozen=True)
class SlashCommand:
    """One command.

    Attributes:
        arguments: how they are written in the usage line.
        completes: what its arguments are: ``paths``, ``refs``, ``saved`` contexts, ``scopes``, ``commands``, or nothing
            that can be known.
        fewest: how many arguments it needs.
        read: makes the params from the arguments, the raw rest of the line and the conversation's id.
    """

    name: str
    arguments: str
    summary: str
    completes: str
    fewest: int
    target: str
    read: Callable[[Sequence[str], str, str], Any]

    @property
    def usage(self) -> str:
        return f"{self.name} {self.arguments}".strip()


def _scope(arguments: Sequence[str], conversation: str) -> ClearParams:
    scope = arguments[0] if arguments else "all"
    if scope not in get_args(ClearScope):
        raise SlashError(f"/clear takes {', '.join(get_args(ClearScope))}, not {scope!r}")
    return ClearParams(scope=scope, conversation_id=conversation)  # type: ignore[arg-type]


def _place(text: str) -> int:
    """As `ctx.move` counts it. Raises SlashError."""
    named = {"first": 0, "last": -1}
    if text in named:
        return named[text]
    if not text.isdecimal() or int(text) < 1:
        raise SlashError(f"/move takes first, last, or a number from 1 as the last argument, not {text!r}")
    return int(text) - 1


def _saved(name: str, summary: str, target: str) -> SlashCommand:
    return SlashCommand(name, "NAME", summary, "saved", 1, target, lambda args, _, __: SavedParams(name=" ".join(args)))


def _refs(name: str, summary: str, target: str) -> SlashCommand:
    return SlashCommand(name, "CHUNK…", summary, "refs", 1, target, lambda args, _, __: RefsParams(refs=tuple(args)))


COMMANDS: dict[str, SlashCommand] = {
    command.name: command
    for command in (
        SlashCommand(
            "/load",
            "PATH…",
            "load files, folders and globs",
            "paths",
            1,
            protocol.LOAD_COMMAND,
            lambda args, _, __: LoadParams(paths=tuple(args)),
        ),
        SlashCommand("/context", "", "show the chunks", "", 0, protocol.CONTEXT_COMMAND, lambda _, __, ___: NoParams()),
        _refs("/activate", "take chunks into the prompt", protocol.ACTIVATE_COMMAND),
        _refs("/deactivate", "leave chunks out of the prompt, their KV is kept", protocol.DEACTIVATE_COMMAND),
        _refs("/pin", "let chunks keep their places when they are edited", protocol.PIN_COMMAND),
        _refs("/unpin", "let chunks go to the end when they are edited", protocol.UNPIN_COMMAND),
        SlashCommand(
            "/populate",
            "[CHUNK…]",
            "compute KV ahead of the next question",
            "refs",
            0,
            protocol.POPULATE_COMMAND,
            lambda args, _, __: PopulateParams(refs=tuple(args) or None),
        ),
        SlashCommand(
            "/compose",
            "NAME CHUNK…",
            "make one chunk of several, in this order",
            "refs",
            2,
            protocol.COMPOSE_COMMAND,
            lambda args, _, __: ComposeParams(refs=tuple(args[1:]), name=args[0]),
        ),
        SlashCommand(
            "/move",
            "CHUNK… PLACE",
            "put chunks at a place in the prompt: first, last, or a number from 1",
            "refs",
            2,
            protocol.MOVE_COMMAND,
            lambda args, _, __: MoveParams(refs=tuple(args[:-1]), position=_place(args[-1])),
        ),
        SlashCommand(
            "/tag",
            "TAG CHUNK…",
            "tag chunks; #TAG then stands for all of them, -TAG takes it off",
            "refs",
            2,
            protocol.TAG_COMMAND,
            lambda args, _, __: TagParams(refs=tuple(args[1:]), tags=(args[0],)),
        ),
        _saved("/save", "keep the context under a name", protocol.SAVE_COMMAND),
        _saved("/restore", "bring a saved context back", protocol.RESTORE_COMMAND),
        SlashCommand(
            "/saved", "", "show the saved contexts", "", 0, protocol.SAVED_COMMAND, lambda _, __, ___: NoParams()
        ),
        _saved("/forget", "delete a saved context", protocol.FORGET_COMMAND),
        _refs("/delete", "remove chunks from the context", protocol.DELETE_COMMAND),
        SlashCommand(
            "/clear",
            "[all|outputs|conversation]",
            "forget everything, only answers, or only this conversation",
            "scopes",
            0,
            protocol.CLEAR_COMMAND,
            lambda args, _, conversation: _scope(args, conversation),
        ),
        SlashCommand(
            "/plan",
            "QUESTION…",
            "what a question would cost, without asking it",
            "",
            1,
            protocol.PLAN_COMMAND,
            lambda _, rest, conversation: PlanParams(text=rest, conversation_id=conversation),
        ),
        SlashCommand(
            "/prompt",
            "[QUESTION…]",
            "show the prompt as the model sees it",
            "",
            0,
            protocol.SHOW_COMMAND,
            lambda _, rest, conversation: ShowParams(uri=prompt_uri(conversation, rest)),
        ),
        SlashCommand(
            "/stats", "", "count chunks, tokens and KV", "", 0, protocol.STATS_COMMAND, lambda _, __, ___: NoParams()
        ),
        SlashCommand(HELP, "[COMMAND]", "show this list", "commands", 0, HELP, lambda args, _, __: tuple(args)),
    )
}

_ASKING = (protocol.PLAN_COMMAND, protocol.SHOW_COMMAND)
"""Their arguments are a question, whose quotes mean nothing."""


def parse(line: str, conversation: str) -> SlashCall:
    """Understands a line. Raises SlashError."""
    name, _, rest = line.strip().partition(" ")
    command = find(name)
    if command.target in _ASKING:
        arguments: Sequence[str] = rest.split()
    else:
        arguments = split(rest)
    if len(arguments) < command.fewest:
        raise SlashError(f"usage: {command.usage} ({command.summary})")
    return SlashCall(command.target, command.read(arguments, rest.strip(), conversation))


def find(name: str) -> SlashCommand:
    """The command of this name, with or without its slash. Raises UnknownSlashError."""
    command = COMMANDS.get(name if name.startswith("/") else f"/{name}")
    if command is None:
        known = list(COMMANDS)
        message = f"there is no command {name or '/'}; the commands are {', '.join(known)}"
        raise UnknownSlashError(message, commands=known)
    return command


def split(text: str) -> list[str]:
    """Arguments as a shell would read them: quotes and backslashes keep spaces. Raises SlashError."""
    lexer = shlex.shlex(text, posix=True, punctuation_chars=False)
    lexer.whitespace_split = True
    lexer.commenters = ""  # '#' begins a tag here
    try:
        return list(lexer)
    except ValueError:
        raise SlashError(f"a quote is not closed: {text}") from None


def usages(names: Sequence[str] = ()) -> tuple[SlashUsage, ...]:
    """What `/help` shows: all commands, or those that are named."""
    commands = [find(name) for name in names] or list(COMMANDS.values())
    return tuple(SlashUsage(name=c.name, usage=c.usage, summary=c.summary) for c in commands)


def refs_of(chunks: Sequence[ChunkInfo]) -> dict[str, str]:
    """Everything that can stand for chunks, and what it stands for."""
    refs: dict[str, str] = {}
    for chunk in chunks:
        state = ("active" if chunk.active else "inactive") + (", pinned" if chunk.pinned else "")
        for name in chunk.sources or (chunk.name,):
            refs[name] = f"{chunk.hash[:8]}, {chunk.tokens:,} tokens, {state}"
    for tag in sorted({tag for chunk in chunks for tag in chunk.tags}):
        count = sum(tag in chunk.tags for chunk in chunks)
        refs[f"#{tag}"] = f"{count} tagged"
    return refs

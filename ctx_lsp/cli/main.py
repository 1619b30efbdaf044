"""The `ctx-lsp` command: what can be asked for on the command line, and which module does it.

Imports a command's module only when that command runs: `ctx-lsp serve` must start quickly.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ctx_lsp import __version__
from ctx_lsp.cli import options as option_arguments

EXIT_USAGE = 2

_SAMPLING_OPTIONS = ("temperature", "top_k", "top_p", "max_tokens", "seed")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line. Returns the exit code."""
    argv = sys.argv[1:] if argv is None else argv
    parser = _parser(command=next(iter(argv), ""))
    arguments = parser.parse_args(argv)
    if arguments.run is None:
        parser.print_help()
        return EXIT_USAGE
    code: int = arguments.run(arguments)
    return code


def _parser(command: str) -> argparse.ArgumentParser:
    """The parser for a line that begins with `command`; the other commands are there by name only."""
    parser = argparse.ArgumentParser(
        prog="ctx-lsp", description="A local LLM whose context is a set of files kept warm, for editors and terminals."
    )
    parser.add_argument("--version", action="version", version=f"ctx-lsp {__version__}")
    parser.set_defaults(run=None)
    commands = parser.add_subparsers(title="commands", metavar="COMMAND")
    _add_serve(commands, wanted=command == "serve")
    _add_chat(commands)
    _add_acp(commands, wanted=command == "acp")
    _add_models(commands, wanted=command == "models")
    _add_engine(commands, wanted=command == "engine")
    _add_doctor(commands, wanted=command == "doctor")
    return parser


def _add_serve(commands: Any, *, wanted: bool) -> None:
    if not wanted:
        commands.add_parser("serve", help="the language server (editors start this)")
        return
    from ctx_lsp.cli import serve as serve_command

    serve_command.add_arguments(commands)


def _add_acp(commands: Any, *, wanted: bool) -> None:
    if not wanted:
        commands.add_parser("acp", help="an agent for editors that speak the Agent Client Protocol")
        return
    from ctx_lsp.cli import acp as acp_command

    acp_command.add_arguments(commands)


def _add_models(commands: Any, *, wanted: bool) -> None:
    if not wanted:
        commands.add_parser("models", help="list, fetch or remove the models that can be had by name")
        return
    from ctx_lsp.cli import models as models_command

    models_command.add_arguments(commands)
    commands.choices["models"].set_defaults(run=models_command.run)


def _add_engine(commands: Any, *, wanted: bool) -> None:
    if not wanted:
        commands.add_parser("engine", help="show or end the engine processes that hold the models")
        return
    from ctx_lsp.cli import engine as engine_command

    engine_command.add_arguments(commands)


def _add_doctor(commands: Any, *, wanted: bool) -> None:
    if not wanted:
        commands.add_parser("doctor", help="check this installation, and say what to do where something is wrong")
        return
    from ctx_lsp.doctor import command as doctor

    doctor.add_arguments(commands)


def _add_chat(commands: Any) -> None:
    chat = commands.add_parser(
        "chat",
        help="chat in the terminal",
        description="Chat about files. Without FILES, the workspace's files that fit are loaded.",
    )
    chat.set_defaults(run=_chat)
    chat.add_argument("files", nargs="*", metavar="FILES", help="files and folders to load, relative to this folder")
    chat.add_argument("--workspace", default=".", metavar="DIR", help="folder the chat is about (default: this one)")
    chat.add_argument("--no-files", action="store_true", help="without FILES: load nothing")
    _add_question(chat.add_argument_group("one question"))
    option_arguments.add_arguments(chat)
    _add_sampling(chat.add_argument_group("answers"))
    chat.add_argument("--server", metavar="COMMAND", help="start this language server instead of `ctx-lsp serve`")


def _add_question(group: Any) -> None:
    group.add_argument("--ask", metavar="QUESTION", help="ask this, print the answer and leave; - reads it from stdin")
    group.add_argument("--json", action="store_true", help="with --ask: print one JSON object, answer and figures")


def _add_sampling(group: Any) -> None:
    group.add_argument("--temperature", type=float, metavar="T", help="0 (default) is greedy")
    group.add_argument("--top-k", type=int, metavar="K", help="sample from the K likeliest tokens")
    group.add_argument("--top-p", type=float, metavar="P", help="sample from the likeliest tokens that make up P")
    group.add_argument("--max-tokens", type=option_arguments.positive, metavar="N", help="longest answer")
    group.add_argument("--seed", type=int, metavar="N", help="makes sampling repeatable")


def _chat(arguments: argparse.Namespace) -> int:
    from ctx_lsp.terminal import main as terminal

    try:
        options = _chat_options(arguments)
    except (OSError, ValueError) as error:
        return _refuse(str(error))
    return terminal.run(options)


def _chat_options(arguments: argparse.Namespace) -> Any:
    """Raises ValueError or OSError with a message for people."""
    from ctx_lsp.protocol import Sampling
    from ctx_lsp.terminal.options import ChatOptions, existing_paths
    from ctx_lsp.terminal.session import SERVE_COMMAND, Settings

    question = _question(arguments)
    workspace = Path(arguments.workspace).expanduser().resolve()
    if not workspace.is_dir():
        raise ValueError(f"no such folder: {arguments.workspace}")
    command = tuple(shlex.split(arguments.server)) if arguments.server else SERVE_COMMAND
    return ChatOptions(
        settings=Settings(workspace=workspace, initialization=option_arguments.chosen(arguments), command=command),
        files=existing_paths(arguments.files),
        discover=not (arguments.files or arguments.no_files),
        question=question,
        as_json=arguments.json,
        sampling=Sampling(**{name: getattr(arguments, name) for name in _SAMPLING_OPTIONS}),
    )


def _question(arguments: argparse.Namespace) -> str | None:
    """The question of `--ask`, or what is piped in; None in a terminal."""
    question: str | None = arguments.ask
    if question == "-":
        question = sys.stdin.read()
    elif question is None and not sys.stdin.isatty():
        question = sys.stdin.read() or None
    if question is not None and not question.strip():
        raise ValueError("the question is empty")
    if question is None and arguments.json:
        raise ValueError("--json needs --ask")
    if question is None and not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise ValueError("a conversation needs a terminal; --ask asks one question")
    return question


def _refuse(message: str) -> int:
    print(f"ctx-lsp: {message}", file=sys.stderr)
    return 1

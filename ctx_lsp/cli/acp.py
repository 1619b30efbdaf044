"""`ctx-lsp acp`: the agent as editors start it that speak the Agent Client Protocol. Reads the command line."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from ctx_lsp.cli import options as option_arguments


def add_arguments(commands: Any) -> None:
    """Adds the `acp` command to a parser's subparsers."""
    parser = commands.add_parser(
        "acp",
        help="an agent for editors that speak the Agent Client Protocol",
        description="An agent of the Agent Client Protocol, over stdin and stdout: editors such as Zed start this.",
    )
    parser.set_defaults(run=run)
    option_arguments.add_arguments(parser)


def run(arguments: argparse.Namespace) -> int:
    """Serves. Returns the exit code."""
    from ctx_lsp import wire
    from ctx_lsp.acp import main
    from ctx_lsp.protocol import InitializationOptions
    from ctx_lsp.settings.options import parse_options

    options = wire.to_json(InitializationOptions(**option_arguments.chosen(arguments)))
    try:
        parse_options(options)
    except wire.WireError as error:
        print(f"ctx-lsp: {error}", file=sys.stderr)
        return 1
    return main.main(options)

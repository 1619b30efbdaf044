"""`ctx-lsp serve`: the server as editors start it, or as one that waits for them on TCP or WebSocket.

Reads the command line; what serving is, `serving` knows.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from ctx_lsp import serving
from ctx_lsp.client import logs
from ctx_lsp.rpc import access_token
from ctx_lsp.serving import Listening


def add_arguments(commands: Any) -> None:
    """Adds the `serve` command to a parser's subparsers."""
    parser = commands.add_parser(
        "serve",
        help="the language server (editors start this)",
        description="The language server, over stdin and stdout, or on loopback for any number of editors.",
        epilog=f"A log of each server is in {logs.folder()}.",
    )
    parser.set_defaults(run=run)
    place = parser.add_mutually_exclusive_group()
    place.add_argument("--tcp", metavar="HOST:PORT", help="listen on TCP; port 0 takes any that is free")
    place.add_argument("--ws", metavar="HOST:PORT", help="listen on WebSocket")
    parser.add_argument(
        "--token-file",
        type=Path,
        metavar="FILE",
        help="what clients must send as initializationOptions.token; made if it isn't there "
        f"(default: the variable {access_token.VARIABLE}, else server.token in the runtime folder)",
    )
    parser.add_argument(
        "--allow-origin",
        action="append",
        default=[],
        metavar="ORIGIN",
        help="with --ws: a web page that may connect, such as http://localhost:3000",
    )


def run(arguments: argparse.Namespace) -> int:
    """Serves. Returns the exit code."""
    logs.start()
    if arguments.tcp is None and arguments.ws is None:
        return serving.main_stdio()
    try:
        token = access_token.access_token(arguments.token_file)
        return serving.main_listening(_place(arguments), token)
    except (OSError, ValueError) as error:
        print(f"ctx-lsp: {error}", file=sys.stderr)
        return 1


def _place(arguments: argparse.Namespace) -> Listening:
    if arguments.tcp is not None:
        return Listening("tcp", *serving.parse_address(arguments.tcp))
    return Listening("ws", *serving.parse_address(arguments.ws), origins=arguments.allow_origin)

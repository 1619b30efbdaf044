"""`InitializationOptions` as arguments of a command line, for the commands that bring their own session.

Knows names, values and what each does in a few words; knows nothing of the commands.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

ENGINE_TOKEN_VARIABLE = "CTX_LSP_ENGINE_TOKEN"
"""The token of the engine at `--engine-url`: other users can read a command line."""

_NAMES = (
    "model",
    "device",
    "dtype",
    "kv_dtype",
    "max_context",
    "kv_cache_tokens",
    "threads",
    "instructions",
    "order",
    "fidelity",
    "latency_budget_ms",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    _add_model(parser.add_argument_group("model"))
    _add_context(parser.add_argument_group("context"))


def chosen(arguments: argparse.Namespace) -> dict[str, Any]:
    """Fields of `InitializationOptions` that the command line says something about."""
    from ctx_lsp.protocol import EngineOptions

    given = {name: getattr(arguments, name) for name in _NAMES if getattr(arguments, name) is not None}
    if "model" in given and arguments.engine_url is None:
        given["model"] = _model(given["model"])
    if arguments.engine_url is not None:
        given["engine"] = EngineOptions(url=arguments.engine_url, token=os.environ.get(ENGINE_TOKEN_VARIABLE))
    return given


def positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return number


def _add_model(group: Any) -> None:
    group.add_argument("--model", metavar="M", help="catalogue name, folder or GGUF file")
    group.add_argument("--device", help="auto, cpu, cuda, cuda:1…")
    group.add_argument("--dtype", choices=("auto", "float32", "bfloat16"), help="of weights and KV")
    group.add_argument(
        "--kv-dtype", choices=("auto", "fp8", "int8"), help="of KV alone; fp8 and int8 take half the memory"
    )
    group.add_argument("--max-context", type=positive, metavar="TOKENS", help="longest prompt plus answer")
    group.add_argument("--kv-cache-tokens", type=positive, metavar="TOKENS", help="size of the KV pool")
    group.add_argument("--threads", type=positive, metavar="N", help="CPU threads")
    group.add_argument("--instructions", metavar="TEXT", help="the system message before the files")
    group.add_argument(
        "--engine-url",
        metavar="URL",
        help="an engine that runs already: a ctx-engine, or a server of OpenAI's API, whose token is taken from "
        f"the variable {ENGINE_TOKEN_VARIABLE}",
    )


def _add_context(group: Any) -> None:
    group.add_argument(
        "--fidelity",
        choices=("exact", "auto", "instant"),
        help="exact: compute anew what stands behind a change; instant: take what is there; "
        "auto (default): exact where it costs little",
    )
    group.add_argument(
        "--latency-budget",
        dest="latency_budget_ms",
        type=_milliseconds,
        metavar="MS",
        help="what auto may spend on exact KV before the first token",
    )
    group.add_argument(
        "--order", choices=("recency", "fixed"), help="an edited file goes to the end (default), or stays where it is"
    )


def _milliseconds(text: str) -> float:
    number = float(text)
    if not 0 <= number < float("inf"):
        raise argparse.ArgumentTypeError("must be 0 or more")
    return number


def _model(name: str) -> str:
    """A path is made absolute: the server and the engine need not run in this folder."""
    is_path = name.startswith((".", "~", "/")) or name.endswith(".gguf")
    return str(Path(name).expanduser().absolute()) if is_path else name

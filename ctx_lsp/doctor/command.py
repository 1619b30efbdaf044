"""`ctx-lsp doctor`: looks at all that has to be right before an answer can come, and says what to do where it isn't.

Shows what the checks found; what they look at is in `checks` and `engine`.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

from ctx_lsp import __version__
from ctx_lsp.cli.options import ENGINE_TOKEN_VARIABLE
from ctx_lsp.doctor import checks, engine
from ctx_lsp.doctor.checks import Check, Finding
from engine.config import DEFAULT_MODEL, EngineConfig
from engine.errors import InvalidRequestError


def add_arguments(commands: Any) -> None:
    """Adds the `doctor` command to a parser's subparsers."""
    parser = commands.add_parser(
        "doctor",
        help="check this installation, and say what to do where something is wrong",
        description="Checks Python, packages, torch, the device, the model, the engine, and the folders it needs.",
    )
    parser.set_defaults(run=run)
    parser.add_argument("--model", metavar="M", default=DEFAULT_MODEL, help="catalogue name, folder or GGUF file")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1…")
    parser.add_argument("--dtype", choices=("auto", "float32", "bfloat16"), default="auto")
    parser.add_argument(
        "--engine-url", metavar="URL", help=f"an engine elsewhere; its token is in the variable {ENGINE_TOKEN_VARIABLE}"
    )
    parser.add_argument("--start", action="store_true", help="also start the engine and wait for its model")
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(arguments: argparse.Namespace) -> int:
    """Examines. Returns the exit code: 1 if something fails that an answer needs."""
    try:
        config = EngineConfig(model=arguments.model, device=arguments.device, dtype=arguments.dtype)
    except InvalidRequestError as error:
        print(f"ctx-lsp: {error.message}", file=sys.stderr)
        return 1
    findings = _examine(_checks(arguments), config)
    found = list(findings if arguments.json else _shown(findings))
    healthy = all(finding.state != "fail" for finding in found)
    if arguments.json:
        print(json.dumps({"version": __version__, "ok": healthy, "checks": [asdict(finding) for finding in found]}))
    else:
        print("All that an answer needs is there." if healthy else "Something that an answer needs is missing.")
    return 0 if healthy else 1


def _checks(arguments: argparse.Namespace) -> list[Check]:
    if arguments.engine_url is not None:
        token = os.environ.get(ENGINE_TOKEN_VARIABLE)
        return [*checks.CHECKS_WITHOUT_ENGINE, engine.answers_at(arguments.engine_url, token)]
    starting = [engine.starts] if arguments.start else []
    return [*checks.CHECKS, *starting, engine.running]


def _examine(checks: Iterable[Check], config: EngineConfig) -> Iterable[Finding]:
    for check in checks:
        try:
            yield from check(config)
        except Exception as error:  # a check that can't look must not hide what the others see
            name = getattr(check, "__name__", "check")
            yield Finding(name, "warn", f"could not be checked: {type(error).__name__}: {error}")


def _shown(findings: Iterable[Finding]) -> Iterable[Finding]:
    for finding in findings:
        print(f"{finding.state:<4}  {finding.name}: {finding.message}", flush=True)
        if finding.advice is not None:
            print(f"      {finding.advice}", flush=True)
        yield finding

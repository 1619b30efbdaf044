"""`ctx-lsp chat --ask` as a user runs it where nothing runs yet, up to the first character of the answer.

What goes on meanwhile is taken from what the command says on stderr; nothing is looked at from inside.
"""

from __future__ import annotations

import asyncio
import os
import re
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import groupby, pairwise
from pathlib import Path

from engine.serve import runtime_file
from engine.serve.stages import Stage

FIRST = "command and language server"
_VARYING = re.compile(r"(,? [\d.,]+ (of|tokens)\b.*| \(.*\))$")


@dataclass(frozen=True)
class Moment:
    """What is going on from so many seconds after the command was started."""

    message: str
    seconds: float


class NoAnswerError(Exception):
    """The command ended without an answer; the message is its last line."""


def stages(moments: Sequence[Moment], end: float) -> tuple[Stage, ...]:
    """How long each thing went on; lines that differ by figures only are of one."""
    said = [Moment(FIRST, 0.0), *(Moment(_VARYING.sub("", at.message), at.seconds) for at in moments)]
    begins = [next(group) for _, group in groupby(said, key=lambda at: at.message)]
    spans = pairwise([*begins, Moment("", end)])
    return tuple(Stage(one.message, other.seconds - one.seconds) for one, other in spans)


async def first_answer(workspace: Path, options: Sequence[str], places: Mapping[str, str]) -> tuple[Stage, ...]:
    """Ask one question about `workspace`.

    Args:
        options: more of the command's.
        places: variables that name the folders of engines and servers; nothing may run there yet.

    Raises:
        NoAnswerError: there is none.
    """
    asked = ["chat", "--workspace", str(workspace), "--ask", "What does this code do?", "--max-tokens", "8", *options]
    pipe = asyncio.subprocess.PIPE
    began = time.perf_counter()
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "ctx_lsp", *asked), stdout=pipe, stderr=pipe, env={**os.environ, **places}
    )
    assert process.stdout is not None
    assert process.stderr is not None
    said: list[Moment] = []
    listening = asyncio.create_task(_listen(process.stderr, said, began))
    try:
        answered = await process.stdout.read(1)
        seconds = time.perf_counter() - began
        until_then = tuple(said)
        await process.stdout.read()
        await asyncio.gather(listening, process.wait())
        if not answered:
            raise NoAnswerError(said[-1].message if said else f"exit code {process.returncode}")
        return stages(until_then, seconds)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


def end_engines(folder: Path) -> None:
    """Ask the engines whose runtime files are in `folder` to end."""
    for path in folder.glob("engine-*.json"):
        info = runtime_file.read(path)
        if info is not None:
            with suppress(OSError):
                runtime_file.request_shutdown(info)


async def _listen(stderr: asyncio.StreamReader, said: list[Moment], began: float) -> None:
    while line := await stderr.readline():
        said.append(Moment(line.decode(errors="replace").strip(), time.perf_counter() - began))

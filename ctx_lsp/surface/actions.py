"""The code actions on a document: what is offered for a selection, for the diagnostics under it, and for the file.

Knows what each client can take; knows nothing of how a command is carried out. Pure functions.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lsprotocol import types

from ctx_lsp import protocol, wire
from ctx_lsp.chat import questions
from ctx_lsp.protocol import ChatParams, ChunkInfo, Selection, TurnContext
from ctx_lsp.surface import lenses

KINDS: tuple[str, ...] = (types.CodeActionKind.QuickFix.value, types.CodeActionKind.Source.value)
"""Those that are offered. What is for a selection has none: it changes no code."""

_MOST_PROBLEMS = 5


@dataclass(frozen=True)
class Place:
    """Where actions are asked for.

    Attributes:
        selection: the document and what is selected in it, maybe nothing.
        source, chunk, path: what the document is called, its chunk and its file, where it has them.
        diagnostics: those that the selection touches.
        can_ask: the client has the command that asks questions; else the server asks and shows the answer.
    """

    selection: Selection
    source: str
    chunk: ChunkInfo | None
    path: Path | None
    diagnostics: Sequence[types.Diagnostic]
    can_ask: bool


def offered(place: Place, only: Sequence[str] | None) -> list[types.CodeAction]:
    """All actions, or those of the kinds that the client asked for."""
    return [action for action in _actions(place) if only is None or _is_wanted(action.kind, only)]


def as_command(action: types.CodeAction) -> types.Command:
    """For clients that know nothing but commands."""
    assert action.command is not None
    return action.command


def _actions(place: Place) -> Iterator[types.CodeAction]:
    for diagnostic in place.diagnostics[:_MOST_PROBLEMS]:
        yield _fix(place, diagnostic)
    if place.selection.range.start != place.selection.range.end:
        yield from _on_selection(place)
    yield from _on_file(place)


def _fix(place: Place, diagnostic: types.Diagnostic) -> types.CodeAction:
    problem = questions.problem(diagnostic)
    around = questions.around(place.selection.uri, diagnostic.range)
    title = f"{'Fix' if place.can_ask else 'Explain how to fix'}: {questions.shortened(diagnostic.message)}"
    if place.can_ask:
        command = _ask(title, questions.fix(problem), around)
    else:
        argument = {"uri": around.uri, "range": wire.to_json(around.range), "problem": problem}
        command = types.Command(title, protocol.EXPLAIN_COMMAND, arguments=[argument])
    return types.CodeAction(title, types.CodeActionKind.QuickFix, diagnostics=[diagnostic], command=command)


def _on_selection(place: Place) -> Iterator[types.CodeAction]:
    argument = wire.to_json(place.selection)
    yield _action("Add selection to the context", protocol.ADD_SELECTION_COMMAND, argument)
    if not place.can_ask:
        yield _action("Explain", protocol.EXPLAIN_COMMAND, argument)
        return
    for title, text in (("Ask about this", ""), ("Explain", questions.EXPLAIN)):
        yield types.CodeAction(title, command=_ask(title, text, place.selection))


def _on_file(place: Place) -> Iterator[types.CodeAction]:
    if place.chunk is not None:
        title = f"{'Deactivate' if place.chunk.active else 'Activate'} this file in the context"
        argument: Any = {"refs": [lenses.reference(place.chunk, place.source)]}
        yield _action(title, lenses.toggle_command(place.chunk), argument, types.CodeActionKind.Source)
    elif place.path is not None:
        argument = {"paths": [str(place.path)]}
        yield _action("Add this file to the context", protocol.LOAD_COMMAND, argument, types.CodeActionKind.Source)


def _ask(title: str, text: str, selection: Selection) -> types.Command:
    """The client's own command; where there is no text, it asks the user for it."""
    params = ChatParams(turn_id=uuid.uuid4().hex, text=text, context=TurnContext(selections=(selection,)))
    given = {name: value for name, value in wire.to_json(params).items() if value is not None}
    return types.Command(title, protocol.ASK_CLIENT_COMMAND, arguments=[given])


def _action(title: str, command: str, argument: Any, kind: types.CodeActionKind | None = None) -> types.CodeAction:
    return types.CodeAction(title, kind, command=types.Command(title, command, arguments=[argument]))


def _is_wanted(kind: types.CodeActionKind | str | None, only: Sequence[str]) -> bool:
    """A kind stands for those below it, too: `source` for `source.fixAll`."""
    name = kind.value if isinstance(kind, types.CodeActionKind) else kind or ""
    return any(wanted == "" or name == wanted or name.startswith(f"{wanted}.") for wanted in only)

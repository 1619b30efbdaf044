"""`ctx/chat/apply`: a code block and the file it is for become one WorkspaceEdit, which editors undo as one.

Knows documents, files and what the client can apply; where the block belongs is `anchoring`'s business.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from lsprotocol import types

from ctx_lsp.chat.anchoring import Anchored, Edit, UnsureError, anchor
from ctx_lsp.chat.block_paths import path_in_comment
from ctx_lsp.chat.code_blocks import Block
from ctx_lsp.client.editor import Editor
from ctx_lsp.client.text_sync import position_at
from ctx_lsp.protocol import ApplyHow, ApplyParams, ApplyResult
from ctx_lsp.session import Session
from ctx_lsp.wire import WireError
from ctx_lsp.workspace.ignore_rules import walk
from ctx_lsp.workspace.sources import normalize, path_of
from ctx_lsp.workspace.workspace_files import UnusableFileError, read_text

_ANNOTATION = "ctx.apply"


@dataclass(frozen=True)
class Target:
    """The document that is to change. `text` is None where there is no such file yet; `version` is the client's."""

    uri: str
    text: str | None
    version: int | None = None


async def apply_block(session: Session, block: Block, params: ApplyParams) -> ApplyResult:
    """Raises WireError if no file is named, UnsureError if the block's place can't be told."""
    target = await _target(session, await _uri(session, block, params))
    name = session.sources.of_uri(target.uri)
    text = target.text or ""
    anchored = await asyncio.to_thread(anchor, text, _without_path(block.text, text, name), block.language)
    how: ApplyHow = "create" if target.text is None else anchored.how
    summary = f"{'Creates' if how == 'create' else 'Changes'} {name} ({anchored.summary})"
    annotation = types.ChangeAnnotation(label=summary, needs_confirmation=how == "fuzzy")
    edit = _workspace_edit(session.editor, target, _text_edits(session, text, anchored), annotation)
    return ApplyResult(uri=target.uri, how=how, summary=summary, edit=edit)


# -- which file --------------------------------------------------------------------------------------------------------


async def _uri(session: Session, block: Block, params: ApplyParams) -> str:
    if params.uri is not None:
        return params.uri
    if params.path is not None:
        return (await _path(session, params.path)).as_uri()
    if block.path is None:
        raise WireError(["path: is missing, and the block names no file"])
    path = await _path(session, block.path)
    within = any(path.is_relative_to(folder) for folder in (session.sources.base, *session.sources.folders))
    if not within and session.sources.of_path(path) not in session.context.sources:
        raise UnsureError(f"{path} is outside of the workspace; name it in `path` if it is meant")
    return path.as_uri()


async def _path(session: Session, name: str) -> Path:
    """The file of that name in a workspace folder, else the only one whose path ends so, else one that could be."""
    folders = dict.fromkeys((session.sources.base, *session.sources.folders))
    candidates = [normalize(folder / Path(name).expanduser()) for folder in folders]
    opened = [path for path in candidates if session.documents.find(path.as_uri()) is not None]
    existing = opened or await asyncio.to_thread(lambda: [path for path in candidates if path.is_file()])
    if existing:
        return existing[0]
    similar = _similar(session, name) or await asyncio.to_thread(_search, folders, name)
    if len(similar) > 1:
        raise UnsureError(f"several files are called {name}: {', '.join(sorted(map(str, similar)))}")
    return next(iter(similar), candidates[0])


def _similar(session: Session, name: str) -> set[Path]:
    """Files that are loaded or open and whose paths end so."""
    loaded = {path for path in map(session.sources.path, session.context.sources) if path is not None}
    return {path for path in {*loaded, *session.documents.open_paths()} if path.as_posix().endswith(f"/{name}")}


def _search(folders: Iterable[Path], name: str) -> set[Path]:
    """Files of the workspace whose paths end so."""
    return {path for folder in folders for path in walk(folder) if path.as_posix().endswith(f"/{name}")}


async def _target(session: Session, uri: str) -> Target:
    """The document as the client has it, else the file. Raises UnsureError for what is no text file."""
    document = session.documents.find(uri)
    if document is not None:
        return Target(document.uri, document.text, document.version)
    path = path_of(uri)
    if path is None:
        raise UnsureError(f"{uri} is neither open nor a file")
    if not await asyncio.to_thread(path.exists):
        return Target(uri, None)
    try:
        return Target(uri, await asyncio.to_thread(read_text, path))
    except UnusableFileError as error:
        if await asyncio.to_thread(lambda: path.stat().st_size) == 0:
            return Target(uri, "")
        raise UnsureError(f"{path} can't be changed: {error}") from None


def _without_path(block: str, text: str, name: str) -> str:
    """Without the comment that names the file, unless the file has it, too."""
    first, newline, rest = block.partition("\n")
    named = path_in_comment(first)
    if named is None or not newline or first in text.splitlines() or Path(named).name != Path(name).name:
        return block
    return rest


# -- what the client is told -------------------------------------------------------------------------------------------


def _text_edits(session: Session, text: str, anchored: Anchored) -> list[types.TextEdit]:
    def edit(change: Edit) -> types.TextEdit:
        start, end = (position_at(text, offset, session.encoding) for offset in (change.start, change.end))
        return types.TextEdit(types.Range(start, end), change.text)

    return [edit(change) for change in anchored.edits]


def _workspace_edit(
    editor: Editor, target: Target, edits: Sequence[types.TextEdit], annotation: types.ChangeAnnotation
) -> types.WorkspaceEdit:
    """As much as the client can: versions, the file's creation, an annotation."""
    if not editor.can("workspace.workspace_edit.document_changes"):
        return types.WorkspaceEdit(changes={target.uri: list(edits)})
    annotates = editor.can("workspace.workspace_edit.change_annotation_support")
    annotation_id = _ANNOTATION if annotates else None
    changes: list[types.CreateFile | types.TextDocumentEdit] = []
    if target.text is None and "create" in editor.capability("workspace.workspace_edit.resource_operations", ()):
        changes.append(types.CreateFile(target.uri, annotation_id=annotation_id))
    document = types.OptionalVersionedTextDocumentIdentifier(target.uri, target.version)
    annotated = [types.AnnotatedTextEdit(_ANNOTATION, edit.range, edit.new_text) for edit in edits]
    changes.append(types.TextDocumentEdit(document, annotated if annotates else list(edits)))
    return types.WorkspaceEdit(
        document_changes=changes, change_annotations={_ANNOTATION: annotation} if annotates else None
    )

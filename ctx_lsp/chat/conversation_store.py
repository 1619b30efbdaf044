"""Conversations on disk: one file each, whole or not at all, shared by every server of the workspace.

Blocking; call it on a thread. Knows files; knows nothing of turns that are running.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from filelock import FileLock

from ctx_lsp import wire
from ctx_lsp.chat.conversation import Conversation
from ctx_lsp.protocol import ChatTurn, ConversationInfo
from ctx_lsp.state_folder import make_private, set_aside, write_private
from engine.errors import EngineError

VERSION = 1

Signature = tuple[int, int, int]


class UnreadableConversationError(EngineError):
    """The conversation's file is there, but not for this version or this user."""

    code = "unreadable_conversation"


class ConversationStore:
    """A folder of conversations. A file that is broken is set aside with a warning, and never deleted.

    Invariant: `_infos` has what was read of each file, with the signature of the file it was read from.
    """

    def __init__(self, folder: Path, warn: Callable[[str], None]) -> None:
        """`warn` is called on whatever thread notices."""
        self._folder = folder
        self._warn = warn
        self._infos: dict[Path, tuple[Signature, ConversationInfo | None]] = {}

    def load(self, id: str) -> Conversation | None:
        """None where there is none. Raises UnreadableConversationError."""
        return self._read(self._path(id))

    def save(self, conversation: Conversation) -> None:
        """Raises OSError."""
        body = {
            "version": VERSION,
            "conversationId": conversation.id,
            "title": conversation.title,
            "updated": conversation.updated,
            "turns": wire.to_json(conversation.turns),
        }
        write_private(self._path(conversation.id), json.dumps(body, indent=1))

    def delete(self, id: str) -> None:
        path = self._path(id)
        path.unlink(missing_ok=True)
        path.with_suffix(".lock").unlink(missing_ok=True)

    def list(self) -> list[ConversationInfo]:
        """In no order. Files are read only once they have changed."""
        seen: dict[Path, tuple[Signature, ConversationInfo | None]] = {}
        for path in self._folder.glob("*.json"):
            try:
                status = path.stat()
                signature = (status.st_mtime_ns, status.st_size, status.st_ino)
                known = self._infos.get(path)
                seen[path] = known if known is not None and known[0] == signature else (signature, self._info(path))
            except FileNotFoundError:
                continue  # deleted, or set aside, a moment ago
        self._infos = seen
        return [info for _, info in seen.values() if info is not None]

    def lock(self, id: str) -> FileLock:
        """To be held while a turn runs. Raises OSError."""
        make_private(self._folder)
        return FileLock(self._path(id).with_suffix(".lock"), mode=0o600, thread_local=False)

    def _path(self, id: str) -> Path:
        """Ids are the clients' choice and may hold anything, also what no file's name can."""
        return self._folder / f"{hashlib.sha256(id.encode('utf-8', 'surrogatepass')).hexdigest()[:32]}.json"

    def _info(self, path: Path) -> ConversationInfo | None:
        try:
            conversation = self._read(path)
        except UnreadableConversationError as error:
            self._warn(error.message)
            return None
        return None if conversation is None else conversation.info

    def _read(self, path: Path) -> Conversation | None:
        try:
            return _conversation(json.loads(path.read_bytes()))
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            reason = error.strerror or str(error)
            raise UnreadableConversationError(f"{path} can't be read: {reason}", file=str(path)) from None
        except _NewerError:
            message = f"{path} was written by a newer ctx-lsp: update this one to go on with that conversation"
            raise UnreadableConversationError(message, file=str(path)) from None
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            self._set_aside(path, error)
            return None

    def _set_aside(self, path: Path, error: Exception) -> None:
        self._warn(f"a conversation can't be read ({error}); its file is kept as {set_aside(path)}")


class _NewerError(Exception):
    """A later version wrote this."""


def _conversation(body: Any) -> Conversation:
    """Raises ValueError, TypeError or KeyError for what no version wrote."""
    if body["version"] > VERSION:
        raise _NewerError
    turns = tuple(wire.from_json(turn, ChatTurn) for turn in body["turns"])
    id, title, updated = (wire.from_json(body[name], str) for name in ("conversationId", "title", "updated"))
    return Conversation(id, title, turns, updated)

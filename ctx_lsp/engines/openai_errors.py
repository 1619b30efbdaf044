"""What servers of OpenAI's API answer when they refuse, as this project's typed errors.

There is no common form: every server words and nests its errors in its own way. Knows bodies and status codes.
"""

from __future__ import annotations

import re
from typing import Any

from ctx_lsp.engines.client import RemoteEngineError
from engine.errors import ContextFullError, ModelNotFoundError

_TOO_LONG = re.compile(r"context (length|size|window)|exceed_context_size|too many tokens", re.IGNORECASE)
_NO_SYSTEM = re.compile(r"system (role|message)s?\W.*not supported|only user(,| and) assistant", re.IGNORECASE)
_LIMITS = (
    re.compile(r"maximum context length (?:is|of) (\d+)"),
    re.compile(r"context (?:size|length|window)[^\d]{0,20}(\d+)"),
)
_NEEDS = (
    re.compile(r"request \((\d+) tokens\)"),
    re.compile(r"requested (?:about )?(\d+) tokens"),
    re.compile(r"(?:contains|has|resulted in)[^\d]{0,20}(\d+)[^\d]{0,10}tokens"),
)


class ServerLoadingError(RemoteEngineError):
    """The server is there and not ready yet."""

    code = "engine_loading"

    def __init__(self, message: str) -> None:
        super().__init__(self.code, message)


def refusal(status: int, body: Any, where: str) -> RemoteEngineError:
    """The error for an answer with this status; `where` is the server's URL."""
    message = message_of(body) or f"status {status}"
    if status in (401, 403):
        return RemoteEngineError("unauthorized", f"{where} wants another token (engine.token): {message}")
    if status == 503:
        return ServerLoadingError(message)
    if status == 429:
        return RemoteEngineError("too_many_requests", f"{where} has too much to do: {message}")
    if status == 413 or _TOO_LONG.search(f"{message} {_type_of(body)}"):
        return _too_long(message, body)
    if status == 404:
        return RemoteEngineError(ModelNotFoundError.code, f"{where} does not know this model, or no chat: {message}")
    return RemoteEngineError("engine_error", f"{where} refused: {message}")


def refuses_system(error: RemoteEngineError) -> bool:
    """Whether the model's chat template has no system messages."""
    return _NO_SYSTEM.search(error.message) is not None


def message_of(body: Any) -> str:
    """For people; empty where there is none."""
    if not isinstance(body, dict):
        return body.strip()[:500] if isinstance(body, str) else ""
    found = body.get("error") or body.get("message") or body.get("detail") or ""
    return message_of(found) if isinstance(found, dict) else str(found)


def _type_of(body: Any) -> str:
    error = body.get("error") if isinstance(body, dict) else None
    return f"{error.get('type')} {error.get('code')}" if isinstance(error, dict) else ""


def _too_long(message: str, body: Any) -> RemoteEngineError:
    error = body.get("error") if isinstance(body, dict) else None
    told = error if isinstance(error, dict) else {}
    limit = told.get("n_ctx") or _first(_LIMITS, message)
    needed = told.get("n_prompt_tokens") or _first(_NEEDS, message)
    data = {key: value for key, value in (("needed", needed), ("limit", limit)) if value is not None}
    return RemoteEngineError(ContextFullError.code, f"the prompt is too long for the server: {message}", data)


def _first(patterns: tuple[re.Pattern[str], ...], text: str) -> int | None:
    found = next((match for pattern in patterns if (match := pattern.search(text))), None)
    return None if found is None else int(found[1])

"""`$/setTrace` and `$/logTrace`: what the server received and answered, for whoever looks over its shoulder.

Knows messages' names and times; of their params it shows no more than fits a line, and no secrets.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from lsprotocol.types import LogTraceParams, TraceValue

_SHOWN_CHARACTERS = 120
_SHOWN_ITEMS = 20
_SECRETS = frozenset({"token"})


class Tracer:
    """Tells of messages as much as the client asked for."""

    def __init__(self, send: Callable[[LogTraceParams], None]) -> None:
        self._send = send
        self.level = TraceValue.Off

    def __call__(self, message: str, detail: Any = None) -> None:
        """`detail` is shown only to who wants all."""
        if self.level == TraceValue.Off:
            return
        verbose = self.level == TraceValue.Verbose and detail is not None
        self._send(LogTraceParams(message, json.dumps(shortened(detail)) if verbose else None))


def shortened(value: Any) -> Any:
    """A JSON value without secrets, and without all of what is long, such as the text of files."""
    if isinstance(value, dict):
        return {key: "…" if key in _SECRETS else shortened(item) for key, item in value.items()}
    if isinstance(value, list):
        rest = [f"… {len(value) - _SHOWN_ITEMS} more"] if len(value) > _SHOWN_ITEMS else []
        return [shortened(item) for item in value[:_SHOWN_ITEMS]] + rest
    if isinstance(value, str) and len(value) > _SHOWN_CHARACTERS:
        return f"{value[:_SHOWN_CHARACTERS]}… ({len(value)} characters)"
    return value

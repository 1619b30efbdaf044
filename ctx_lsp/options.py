"""`initializationOptions`: an unknown key is a warning, a wrong value an error that names its key.

Knows names, types and defaults; knows nothing of what an option does.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import attrs

from ctx_lsp import wire
from ctx_lsp.protocol import InitializationOptions
from engine.config import EngineConfig
from engine.errors import InvalidRequestError


@dataclass(frozen=True)
class ParsedOptions:
    """The options and what the user should be told about the others."""

    options: InitializationOptions
    warnings: tuple[str, ...]


def parse_options(value: Any) -> ParsedOptions:
    """Reads what the client sent. Unknown keys become warnings. Raises WireError naming each key of a wrong type."""
    value = {} if value is None else value
    options = wire.from_json(_without_nulls(value), InitializationOptions)
    known = {wire.camel_case(field.name) for field in attrs.fields(InitializationOptions)}
    unknown = sorted(set(value) - known)
    warnings = (f"ignoring unknown initializationOptions: {', '.join(unknown)}",) if unknown else ()
    if options.debounce_ms < 0:
        raise wire.WireError(["debounceMs: expected 0 or more"])
    if options.latency_budget_ms is not None and not options.latency_budget_ms >= 0:
        raise wire.WireError(["latencyBudgetMs: expected 0 or more"])
    engine_config(options)
    return ParsedOptions(options, warnings)


def engine_config(options: InitializationOptions) -> EngineConfig:
    """The engine these options ask for. Raises WireError for values out of range."""
    names = ("model", "device", "dtype", "kv_dtype", "max_context", "kv_cache_tokens", "threads")
    given = {name: getattr(options, name) for name in names if getattr(options, name) is not None}
    try:
        return EngineConfig(**given)
    except InvalidRequestError as error:
        raise wire.WireError([_camel_message(error.message)]) from None


def _without_nulls(value: Any) -> Any:
    """A null counts as left out, also where the default isn't null."""
    return {key: item for key, item in value.items() if item is not None} if isinstance(value, dict) else value


def _camel_message(message: str) -> str:
    name, _, rest = message.partition(" ")
    return f"{wire.camel_case(name)}: {rest}"

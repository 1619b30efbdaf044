"""The options of `InitializationOptions`: an unknown key is a warning, a wrong value an error that names its key.

Knows names, types and defaults; knows nothing of what an option does.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ctx_lsp import wire
from ctx_lsp.protocol import VERSION, InitializationOptions
from engine.config import EngineConfig
from engine.errors import InvalidRequestError

_GROUPS = ("files", "engine")


@dataclass(frozen=True)
class ParsedOptions:
    """The options and what the user should be told about the others."""

    options: InitializationOptions
    warnings: tuple[str, ...]


def parse_options(value: Any) -> ParsedOptions:
    """Reads what the client sent. Unknown keys become warnings. Raises WireError naming each key of a wrong value."""
    if not isinstance(value, dict | None):
        raise wire.WireError(["expected an object"])
    given = flatten(value or {})
    _check_version(given.get("protocolVersion"))
    options = wire.from_json(nest(given), InitializationOptions)
    if problems := _out_of_range(options):
        raise wire.WireError(problems)
    engine_config(options)
    unknown = sorted(set(given) - KEYS)
    warnings = (f"ignoring unknown options: {', '.join(unknown)}",) if unknown else ()
    return ParsedOptions(options, warnings)


def engine_config(options: InitializationOptions) -> EngineConfig:
    """The engine these options ask for. Raises WireError for values out of range."""
    names = ("model", "device", "dtype", "kv_dtype", "max_context", "kv_cache_tokens", "threads")
    given = {name: getattr(options, name) for name in names if getattr(options, name) is not None}
    try:
        return EngineConfig(**given)
    except InvalidRequestError as error:
        raise wire.WireError([_camel_message(error.message)]) from None


def flatten(value: Mapping[str, Any]) -> dict[str, Any]:
    """One level of keys, as settings are spelled: `{"files": {"maxTokens": 1}}` becomes `{"files.maxTokens": 1}`.

    A null counts as left out, also where the default isn't null.
    """
    flat: dict[str, Any] = {}
    for key, item in value.items():
        if key in _GROUPS and isinstance(item, dict):
            flat |= {f"{key}.{name}": inner for name, inner in item.items()}
        else:
            flat[key] = item
    return {key: item for key, item in flat.items() if item is not None}


def nest(flat: Mapping[str, Any]) -> dict[str, Any]:
    """What `flatten` made one level of, in its groups again."""
    value: dict[str, Any] = {}
    for key, item in flat.items():
        group, _, name = key.partition(".")
        if not name or group not in _GROUPS:
            value[key] = item
        elif isinstance(inner := value.setdefault(group, {}), dict):
            inner[name] = item
    return value


def _check_version(version: Any) -> None:
    """Before all else: in another version the other keys may mean something else. Raises WireError."""
    if type(version) is int and version != VERSION:
        told = f"protocolVersion: this server speaks version {VERSION} of the protocol, the client version {version}"
        raise wire.WireError([f"{told}: install a ctx-lsp and a client that belong together"])


def _out_of_range(options: InitializationOptions) -> list[str]:
    numbers = {
        "debounceMs": options.debounce_ms,
        "latencyBudgetMs": options.latency_budget_ms,
        "files.maxTokens": options.files.max_tokens,
    }
    wrong = [f"{key}: expected 0 or more" for key, number in numbers.items() if number is not None and not number >= 0]
    url = options.engine.url
    return (
        wrong
        if url is None or re.match(r"https?://[^/]", url)
        else [*wrong, "engine.url: expected http://… or https://…"]
    )


def _camel_message(message: str) -> str:
    name, _, rest = message.partition(" ")
    return f"{wire.camel_case(name)}: {rest}"


def _all_keys() -> frozenset[str]:
    value = wire.to_json(InitializationOptions())
    return frozenset(f"{key}.{name}" for key in _GROUPS for name in value[key]) | (set(value) - set(_GROUPS))


KEYS = _all_keys()
"""Every key there is, as `flatten` spells it."""

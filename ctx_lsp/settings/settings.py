"""The options in force: what `initialize` said, and over it, key by key, what the client's configuration says.

Knows which value counts and which are wrong; knows nothing of where a configuration comes from or what a change means.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ctx_lsp.protocol import InitializationOptions
from ctx_lsp.settings.options import KEYS, flatten, nest, parse_options
from ctx_lsp.wire import WireError


@dataclass(frozen=True)
class Change:
    """What a new configuration did.

    Attributes:
        problems: wrong values that were not told before, each with its key.
        unknown: keys that were not told before and that are none of the options.
    """

    before: InitializationOptions
    after: InitializationOptions
    problems: tuple[str, ...] = ()
    unknown: tuple[str, ...] = ()

    def touches(self, *names: str) -> bool:
        return any(getattr(self.before, name) != getattr(self.after, name) for name in names)


class Settings:
    """The options in force, which are always valid.

    Invariant: a key has the configuration's value, else that of `initialize`, else its default; a wrong value in the
    configuration counts as the last right one of that key there.
    """

    def __init__(self, initialization: Any = None) -> None:
        """Raises WireError naming each key of a wrong value."""
        parsed = parse_options(initialization)
        self.options = parsed.options
        self.warnings = parsed.warnings
        self._initialization = flatten(initialization or {})
        self._configuration: dict[str, Any] = {}
        self._told_problems: set[str] = set()
        self._told_unknown: set[str] = set()

    def configure(self, configuration: Any) -> Change:
        """Takes the client's configuration in the place of the last one; null is an empty one."""
        if not isinstance(configuration, dict | None):
            return self._change(["expected an object"], set())
        given = flatten(configuration or {})
        problems = {key: problem for key, item in given.items() if key in KEYS and (problem := _problem(key, item))}
        last, self._configuration = self._configuration, {}
        for key in given.keys() & KEYS:
            if key not in problems:
                self._configuration[key] = given[key]
            elif key in last:
                self._configuration[key] = last[key]
        return self._change(problems.values(), given.keys() - KEYS)

    def _change(self, problems: Any, unknown: set[str]) -> Change:
        before = self.options
        self.options = parse_options(nest({**self._initialization, **self._configuration})).options
        news = [problem for problem in problems if problem not in self._told_problems]
        strangers = sorted(unknown - self._told_unknown)
        self._told_problems = set(problems)
        self._told_unknown |= unknown
        return Change(before, self.options, tuple(news), tuple(strangers))


def _problem(key: str, item: Any) -> str | None:
    try:
        parse_options({key: item})
    except WireError as error:
        return str(error)
    return None

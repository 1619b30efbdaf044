"""What the fidelity benchmark reads: sets of six excerpts of real source files, with questions and an edit.

In each set one file defines a value that another uses, so that a question can need both. Taken from packages installed
beside the engine and from Python's own library; a set whose package is missing or has other files is left out.
"""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

LONGEST = 380
"""Tokens of a file at most, by smollm2's tokenizer or any like it."""


@dataclass(frozen=True)
class Excerpt:
    """Lines of a package's file: from the first line that matches each pattern on, so many of them."""

    path: str
    parts: tuple[tuple[str, int], ...] = (("", 400),)


@dataclass(frozen=True)
class SourceSet:
    """Six files and what is asked about them.

    Attributes:
        defines, uses: index of the file with a value and of one that uses it, which the `cross` question is about.
        asked: index of the file that the `single` question is about.
        edit: a line's text in the defining file, and another.
    """

    package: str
    files: tuple[Excerpt, ...]
    defines: int
    uses: int
    asked: int
    single: str
    cross: str
    edit: tuple[str, str]


@dataclass(frozen=True)
class Loaded:
    """A set with the texts of its files as (path, text)."""

    set: SourceSet
    files: tuple[tuple[str, str], ...]

    @property
    def questions(self) -> tuple[tuple[str, str], tuple[str, str]]:
        """What is asked, by kind."""
        return ("single", self.set.single), ("cross", self.set.cross)

    @property
    def edited(self) -> str:
        """The defining file with its value changed."""
        return self.files[self.set.defines][1].replace(*self.set.edit)


SETS = (
    SourceSet(
        "asyncio",
        (
            Excerpt("exceptions.py"),
            Excerpt("constants.py"),
            Excerpt("timeouts.py", ((r"^class Timeout", 60),)),
            Excerpt("threads.py"),
            Excerpt("selector_events.py", ((r"    def write\(self, data\):", 45),)),
            Excerpt("base_futures.py"),
        ),
        defines=1,
        uses=4,
        asked=2,
        single="When does Timeout.reschedule raise a RuntimeError?",
        cross="After how many writes to a lost connection does write() in selector_events.py log a warning?",
        edit=("LOG_THRESHOLD_FOR_CONNLOST_WRITES = 5", "LOG_THRESHOLD_FOR_CONNLOST_WRITES = 12"),
    ),
    SourceSet(
        "engine",
        (
            Excerpt("hashing.py"),
            Excerpt("models/stamp.py", ((r"^import hashlib", 60),)),
            Excerpt("models/hub_source.py"),
            Excerpt("models/linear.py"),
            Excerpt("models/hub_snapshot.py", ((r"import CONNECT_TIMEOUT", 1), (r"^def _download", 26))),
            Excerpt("kv/pool.py"),
        ),
        defines=2,
        uses=4,
        asked=1,
        single="What does write_stamp record about a file?",
        cross="How many seconds may model_info take before _download in hub_snapshot.py gives up?",
        edit=("CONNECT_TIMEOUT = 5.0", "CONNECT_TIMEOUT = 12.0"),
    ),
    SourceSet(
        "email",
        (
            Excerpt("errors.py"),
            Excerpt("iterators.py"),
            Excerpt(
                "_policybase.py",
                ((r"^class Policy", 3), (r"    max_line_length     ", 12), (r"^    raise_on_defect = False", 30)),
            ),
            Excerpt("base64mime.py", ((r"^def header_length", 70),)),
            Excerpt("generator.py", ((r"^class Generator", 60),)),
            Excerpt("encoders.py"),
        ),
        defines=2,
        uses=4,
        asked=1,
        single="What does typed_subpart_iterator yield?",
        cross="At which line length does a Generator wrap headers if it is made without maxheaderlen?",
        edit=("max_line_length = 78", "max_line_length = 100"),
    ),
    SourceSet(
        "jinja2",
        (
            Excerpt("exceptions.py"),
            Excerpt("defaults.py"),
            Excerpt("optimizer.py"),
            Excerpt("bccache.py", ((r"^class BytecodeCache", 50),)),
            Excerpt("environment.py", ((r"^        block_start_string", 45),)),
            Excerpt("utils.py", ((r"^class Cycler", 60),)),
        ),
        defines=1,
        uses=4,
        asked=2,
        single="What does generic_visit of the Optimizer do?",
        cross="Which string begins a comment if an Environment is made without arguments?",
        edit=('COMMENT_START_STRING = "{#"', 'COMMENT_START_STRING = "[#"'),
    ),
    SourceSet(
        "httpx",
        (
            Excerpt("_exceptions.py", ((r"^class HTTPError", 60),)),
            Excerpt("_config.py", ((r"^class Limits", 34), (r"^DEFAULT_TIMEOUT_CONFIG", 3))),
            Excerpt("_utils.py", ((r"^def get_environment_proxies", 60),)),
            Excerpt("_status_codes.py", ((r"^class codes", 40),)),
            Excerpt("_client.py", ((r"^class BaseClient", 45),)),
            Excerpt("_auth.py", ((r"^class FunctionAuth", 50),)),
        ),
        defines=1,
        uses=4,
        asked=2,
        single="What does get_environment_proxies do with NO_PROXY?",
        cross="After how many redirects does a BaseClient give up by default?",
        edit=("DEFAULT_MAX_REDIRECTS = 20", "DEFAULT_MAX_REDIRECTS = 35"),
    ),
    SourceSet(
        "h11",
        (
            Excerpt("_util.py", ((r"^class ProtocolError", 60),)),
            Excerpt("_receivebuffer.py", ((r"^class ReceiveBuffer", 70),)),
            Excerpt("_abnf.py", ((r"^# https://svn", 15), (r"^HEXDIG", 28))),
            Excerpt("_headers.py", ((r"^class Headers", 60),)),
            Excerpt("_readers.py", ((r"^from ._abnf", 1), (r"^chunk_header_re", 60))),
            Excerpt("_writers.py"),
        ),
        defines=2,
        uses=4,
        asked=1,
        single="What does maybe_extract_next_line return when no line is complete?",
        cross="How many hexadecimal digits may a chunk size have at most when ChunkedReader reads it?",
        edit=("{{1,20}}", "{{1,12}}"),
    ),
)


def load_sets(count_tokens: Callable[[str], int], most: int) -> list[Loaded]:
    """The first `most` sets that can be had here, files cut to `LONGEST` tokens."""
    found = [loaded for source_set in SETS if (loaded := _load(source_set, count_tokens)) is not None]
    return found[:most]


def _load(source_set: SourceSet, count_tokens: Callable[[str], int]) -> Loaded | None:
    spec = importlib.util.find_spec(source_set.package)
    if spec is None or not spec.submodule_search_locations:
        return None
    root = Path(next(iter(spec.submodule_search_locations)))
    try:
        files = tuple(
            (f"{source_set.package}/{e.path}", _cut(root / e.path, e.parts, count_tokens)) for e in source_set.files
        )
    except (OSError, LookupError):
        return None
    loaded = Loaded(source_set, files)
    return loaded if loaded.edited != files[source_set.defines][1] else None


def _cut(path: Path, parts: Sequence[tuple[str, int]], count_tokens: Callable[[str], int]) -> str:
    lines = list(_lines(path.read_text(encoding="utf-8").splitlines(), parts))
    while count_tokens("\n".join(lines)) > LONGEST:
        lines.pop()
    return "\n".join(lines).rstrip() + "\n"


def _lines(lines: Sequence[str], parts: Sequence[tuple[str, int]]) -> Iterator[str]:
    """LookupError if a pattern matches nowhere."""
    for pattern, count in parts:
        start = next((number for number, line in enumerate(lines) if re.search(pattern, line)), None)
        if start is None:
            raise LookupError(pattern)
        yield from lines[start : start + count]

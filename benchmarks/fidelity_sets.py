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

LONGEST = 400
"""Tokens of a file at most. By smollm2's tokenizer and qwen's no excerpt has as many: both read the same texts."""


@dataclass(frozen=True)
class Excerpt:
    """Lines of a package's file: from the first line that matches each pattern on, so many of them; `lines` in all."""

    path: str
    lines: int
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
        "httpx",
        (
            Excerpt("_exceptions.py", 58, ((r"^class HTTPError", 60),)),
            Excerpt("_config.py", 37, ((r"^class Limits", 34), (r"^DEFAULT_TIMEOUT_CONFIG", 3))),
            Excerpt("_utils.py", 30, ((r"^def get_environment_proxies", 60),)),
            Excerpt("_status_codes.py", 38, ((r"^class codes", 40),)),
            Excerpt("_client.py", 36, ((r"^class BaseClient", 45),)),
            Excerpt("_auth.py", 42, ((r"^class FunctionAuth", 50),)),
        ),
        defines=1,
        uses=4,
        asked=2,
        single="What does get_environment_proxies do with NO_PROXY?",
        cross="After how many redirects does a BaseClient give up by default?",
        edit=("DEFAULT_MAX_REDIRECTS = 20", "DEFAULT_MAX_REDIRECTS = 35"),
    ),
    SourceSet(
        "uvicorn",
        (
            Excerpt("logging.py", 41),
            Excerpt("supervisors/statreload.py", 50),
            Excerpt("protocols/http/flow_control.py", 44),
            Excerpt("protocols/utils.py", 40),
            Excerpt(
                "protocols/http/h11_impl.py",
                26,
                ((r"import CLOSE_HEADER", 3), (r"if len\(self.cycle.body\) > HIGH", 40)),
            ),
            Excerpt("middleware/message_logger.py", 49),
        ),
        defines=2,
        uses=4,
        asked=1,
        single="What does StatReload look at to decide whether a restart is needed?",
        cross="How many bytes of a request body may pile up before h11_impl.py pauses reading?",
        edit=("HIGH_WATER_LIMIT = 65536", "HIGH_WATER_LIMIT = 98304"),
    ),
    SourceSet(
        "asyncio",
        (
            Excerpt("exceptions.py", 57),
            Excerpt("constants.py", 34),
            Excerpt("timeouts.py", 46, ((r"^class Timeout", 60),)),
            Excerpt("threads.py", 25),
            Excerpt("selector_events.py", 45, ((r"    def write\(self, data\):", 45),)),
            Excerpt("base_futures.py", 49),
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
            Excerpt("hashing.py", 34),
            Excerpt("models/stamp.py", 40, ((r"^import hashlib", 60),)),
            Excerpt("models/hub_source.py", 40),
            Excerpt("models/linear.py", 33),
            Excerpt("models/hub_snapshot.py", 19, ((r"import CONNECT_TIMEOUT", 1), (r"^def _download", 26))),
            Excerpt("kv/pool.py", 38),
        ),
        defines=2,
        uses=4,
        asked=1,
        single="What does write_stamp record about a file?",
        cross="How many seconds may model_info take before _download in hub_snapshot.py gives up?",
        edit=("CONNECT_TIMEOUT = 5.0", "CONNECT_TIMEOUT = 12.0"),
    ),
    SourceSet(
        "jinja2",
        (
            Excerpt("exceptions.py", 57),
            Excerpt("defaults.py", 40),
            Excerpt("optimizer.py", 45),
            Excerpt("bccache.py", 44, ((r"^class BytecodeCache", 50),)),
            Excerpt("environment.py", 21, ((r"^        block_start_string", 45),)),
            Excerpt("utils.py", 44, ((r"^class Cycler", 60),)),
        ),
        defines=1,
        uses=4,
        asked=2,
        single="What does generic_visit of the Optimizer do?",
        cross="Which string begins a comment if an Environment is made without arguments?",
        edit=('COMMENT_START_STRING = "{#"', 'COMMENT_START_STRING = "[#"'),
    ),
    SourceSet(
        "email",
        (
            Excerpt("errors.py", 53),
            Excerpt("iterators.py", 48),
            Excerpt(
                "_policybase.py",
                41,
                ((r"^class Policy", 3), (r"    max_line_length     ", 12), (r"^    raise_on_defect = False", 30)),
            ),
            Excerpt("base64mime.py", 38, ((r"^def header_length", 70),)),
            Excerpt("generator.py", 44, ((r"^class Generator", 60),)),
            Excerpt("encoders.py", 47),
        ),
        defines=2,
        uses=4,
        asked=1,
        single="What does typed_subpart_iterator yield?",
        cross="At which line length does a Generator wrap headers if it is made without maxheaderlen"
        " and with the default policy?",
        edit=("max_line_length = 78", "max_line_length = 100"),
    ),
    SourceSet(
        "starlette",
        (
            Excerpt("background.py", 36),
            Excerpt("convertors.py", 49, ((r"^class StringConvertor", 80),)),
            Excerpt("concurrency.py", 45),
            Excerpt("exceptions.py", 41),
            Excerpt("routing.py", 40, ((r"^def compile_path", 60),)),
            Excerpt("endpoints.py", 40),
        ),
        defines=1,
        uses=4,
        asked=2,
        single="What does iterate_in_threadpool do?",
        cross="Which regular expression does compile_path put in for a parameter of type int?",
        edit=('regex = "[0-9]+"\n', 'regex = "-?[0-9]{1,9}"\n'),
    ),
    SourceSet(
        "h11",
        (
            Excerpt("_util.py", 38, ((r"^class ProtocolError", 60),)),
            Excerpt("_receivebuffer.py", 48, ((r"^class ReceiveBuffer", 70),)),
            Excerpt("_abnf.py", 24, ((r"^# https://svn", 15), (r"^HEXDIG", 28))),
            Excerpt("_headers.py", 43, ((r"^class Headers", 60),)),
            Excerpt("_readers.py", 33, ((r"^from ._abnf", 1), (r"^chunk_header_re", 60))),
            Excerpt("_writers.py", 36),
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
            (f"{source_set.package}/{e.path}", _cut(root / e.path, e, count_tokens)) for e in source_set.files
        )
    except (OSError, LookupError):
        return None
    loaded = Loaded(source_set, files)
    return loaded if loaded.edited != files[source_set.defines][1] else None


def _cut(path: Path, excerpt: Excerpt, count_tokens: Callable[[str], int]) -> str:
    lines = list(_lines(path.read_text(encoding="utf-8").splitlines(), excerpt.parts))[: excerpt.lines]
    while count_tokens("\n".join(lines)) > LONGEST:
        lines.pop()
    return "\n".join(lines) + "\n"


def _lines(lines: Sequence[str], parts: Sequence[tuple[str, int]]) -> Iterator[str]:
    """LookupError if a pattern matches nowhere."""
    for pattern, count in parts:
        start = next((number for number, line in enumerate(lines) if re.search(pattern, line)), None)
        if start is None:
            raise LookupError(pattern)
        yield from lines[start : start + count]

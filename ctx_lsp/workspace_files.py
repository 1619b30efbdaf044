"""Files on disk: which ones a path, folder or glob means, what each holds, and why one can't be used.

Blocking; call it on a thread. Knows nothing of documents, chunks or engines.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from pathspec import GitIgnoreSpec

from ctx_lsp.ignore_rules import walk
from ctx_lsp.protocol import Skipped
from ctx_lsp.sources import normalize

MAX_BYTES = 1024 * 1024
_SNIFFED_BYTES = 8192
_GLOB_CHARS = frozenset("*?[")

# Generated or archival files: text, but seldom what a question is about. Loading them by name still works.
_DULL_NAMES = """
*.lock *-lock.json *-lock.yaml go.sum *.min.js *.min.css *.map *.svg *.csv *.tsv *.ipynb *.log *.snap *.jsonl
LICENSE* COPYING* node_modules/ .venv/ venv/ .tox/
"""
_DULL = GitIgnoreSpec.from_lines(_DULL_NAMES.split())


class UnusableFileError(Exception):
    """The file can't become a chunk; the message says why, in a few words."""


@dataclass(frozen=True)
class Selection:
    """Files in the order in which they were asked for, each once, and what was asked for in vain."""

    files: tuple[Path, ...]
    skipped: tuple[Skipped, ...]


def read_text(path: Path) -> str:
    """A file's text, without its byte order mark, line ends as they are. Raises UnusableFileError."""
    try:
        size = path.stat().st_size
        if not path.is_file():
            raise UnusableFileError("not a regular file")
        if size > MAX_BYTES:
            raise UnusableFileError(f"larger than {MAX_BYTES // 1024} KiB ({size:,} bytes)")
        data = path.read_bytes()
    except FileNotFoundError:
        raise UnusableFileError("no such file") from None
    except OSError as error:
        raise UnusableFileError(error.strerror or str(error)) from None
    return _decode(data)


def select(paths: Iterable[str], base: Path) -> Selection:
    """The files that paths, folders and globs mean; relative ones begin at `base`.

    A file that is named is taken even where Git ignores it; folders and globs leave ignored files out.
    """
    files: dict[Path, None] = {}
    skipped: list[Skipped] = []
    for text in paths:
        found = list(_expand(text, base))
        files.update(dict.fromkeys(found))
        if not found:
            skipped.append(Skipped(path=text, reason=_why_nothing(text, base)))
    return Selection(tuple(files), tuple(skipped))


def discover(root: Path, budget_bytes: int) -> list[Path]:
    """Text files of a folder worth reading first: most recently changed first, until the budget is spent."""
    dated = sorted(_datable(walk(root), root), reverse=True)
    chosen: list[Path] = []
    for _, size, path in dated:
        if size <= budget_bytes and _looks_like_text(path):
            chosen.append(path)
            budget_bytes -= size
    return chosen


def resembles_glob(text: str) -> bool:
    return not _GLOB_CHARS.isdisjoint(text)


def _decode(data: bytes) -> str:
    if b"\0" in data:
        raise UnusableFileError("binary")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UnusableFileError(f"not UTF-8 (byte {error.start})") from None
    if not text:
        raise UnusableFileError("empty")
    return text


def _expand(text: str, base: Path) -> Iterator[Path]:
    path = normalize(base / Path(text).expanduser())
    if path.is_dir():
        yield from walk(path)
    elif path.exists():
        yield path
    elif resembles_glob(text):
        yield from _match(path)


def _match(pattern: Path) -> Iterator[Path]:
    """Shell globbing: `*` stays within a folder, `**` doesn't; a folder that matches means all of its files."""
    fixed = _fixed_part(pattern)
    spec = GitIgnoreSpec.from_lines(["/" + pattern.relative_to(fixed).as_posix()])
    return (path for path in walk(fixed) if spec.match_file(path.relative_to(fixed).as_posix()))


def _fixed_part(pattern: Path) -> Path:
    fixed = Path(pattern.anchor)
    for part in pattern.parts[1:]:
        if resembles_glob(part):
            break
        fixed /= part
    return fixed


def _why_nothing(text: str, base: Path) -> str:
    if normalize(base / Path(text).expanduser()).is_dir():
        return "the folder holds no files that Git would track"
    return "nothing matches" if resembles_glob(text) else "no such file"


def _datable(paths: Iterable[Path], root: Path) -> Iterator[tuple[float, int, Path]]:
    for path in paths:
        if _DULL.match_file(path.relative_to(root).as_posix()):
            continue
        try:
            status = path.stat()
        except OSError:
            continue
        if 0 < status.st_size <= MAX_BYTES:
            yield status.st_mtime, status.st_size, path


def _looks_like_text(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            head = file.read(_SNIFFED_BYTES)
    except OSError:
        return False
    if b"\0" in head:
        return False
    try:
        head.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        return error.start >= len(head) - 3 and len(head) == _SNIFFED_BYTES
    return True


def complete_path(prefix: str, base: Path, limit: int = 50) -> Sequence[str]:
    """Paths that begin with `prefix`, for completion: one level, folders with a slash behind them."""
    folder_text, _, start = prefix.rpartition("/")
    folder = normalize(base / Path(folder_text or ("/" if prefix.startswith("/") else ".")).expanduser())
    try:
        entries = sorted(folder.iterdir())
    except OSError:
        return ()
    lead = prefix[: len(prefix) - len(start)]
    visible = (entry for entry in entries if entry.name.startswith(start) and (start or entry.name[0] != "."))
    return [lead + entry.name + ("/" if entry.is_dir() else "") for entry in visible][:limit]

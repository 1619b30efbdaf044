"""Files on disk: which ones a path, folder or glob means, what each holds, and why one can't be used.

Blocking; call it on a thread. Knows nothing of documents, chunks or engines.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from pathspec import GitIgnoreSpec

from ctx_lsp.protocol import Skipped
from ctx_lsp.workspace.exclusions import below, is_dense, why_secret, why_text
from ctx_lsp.workspace.ignore_rules import walk
from ctx_lsp.workspace.sources import normalize

MAX_BYTES = 1024 * 1024
_SNIFFED_BYTES = 8192
_GLOB_CHARS = frozenset("*?[")

Signature = tuple[int, int]


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
            raise UnusableFileError(_too_large(size))
        data = path.read_bytes()
    except FileNotFoundError:
        raise UnusableFileError("no such file") from None
    except OSError as error:
        raise UnusableFileError(error.strerror or str(error)) from None
    return _decode(data)


def select(paths: Iterable[str], base: Path, folders: Sequence[Path] = (), unsaved: Collection[Path] = ()) -> Selection:
    """The files that paths, folders and globs mean; relative ones begin at `base`.

    A file that is named is taken whatever it is; folders and globs leave out ignored files and secrets. `folders`: the
    workspace's, within which links to folders are followed; `unsaved`: files that may be there only in an editor yet.
    """
    files: dict[Path, None] = {}
    skipped: list[Skipped] = []
    for text in paths:
        path = normalize(base / Path(text).expanduser())
        found = [path] if path in unsaved else list(_expand(text, base, folders))
        files.update(dict.fromkeys(found))
        if not found:
            skipped.append(Skipped(path=text, reason=_why_nothing(text, base)))
    return Selection(tuple(files), tuple(skipped))


def why_unusable(path: Path) -> str | None:
    """Why the beginning of a file says that it should not come by itself; None if it may."""
    try:
        with path.open("rb") as file:
            head = file.read(_SNIFFED_BYTES)
        text = _decode(_whole_characters(head))
        return why_text(text) or ("minified, or data" if is_dense(text) else None)
    except UnusableFileError as error:
        return str(error)
    except OSError as error:
        return error.strerror or str(error)


def why_too_large(text: str) -> str | None:
    """The same limit as for files, for a text that a client has."""
    size = len(text.encode(errors="surrogatepass"))
    return _too_large(size) if size > MAX_BYTES else None


def signature_of(path: Path) -> Signature | None:
    """Changes whenever the file's content does; None if there is no such file."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size


def resembles_glob(text: str) -> bool:
    return not _GLOB_CHARS.isdisjoint(text)


def _too_large(size: int) -> str:
    return f"larger than {MAX_BYTES // 1024} KiB ({size:,} bytes)"


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


def _expand(text: str, base: Path, folders: Sequence[Path]) -> Iterator[Path]:
    path = normalize(base / Path(text).expanduser())
    if path.is_dir():
        yield from _public(path, folders)
    elif path.exists():
        yield path
    elif resembles_glob(text):
        yield from _match(path, folders)


def _match(pattern: Path, folders: Sequence[Path]) -> Iterator[Path]:
    """Shell globbing: `*` stays within a folder, `**` doesn't; a folder that matches means all of its files."""
    fixed = _fixed_part(pattern)
    spec = GitIgnoreSpec.from_lines(["/" + pattern.relative_to(fixed).as_posix()])
    return (path for path in _public(fixed, folders) if spec.match_file(path.relative_to(fixed).as_posix()))


def _public(folder: Path, folders: Sequence[Path]) -> Iterator[Path]:
    """What is below a folder and was not kept out of others' sight."""
    return (path for path in walk(folder, folders) if why_secret(below(path, (folder,))) is None)


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


def _whole_characters(head: bytes) -> bytes:
    """Without the last character where it may have been cut."""
    if len(head) < _SNIFFED_BYTES:
        return head
    return head.decode("utf-8-sig", errors="ignore").encode() if _is_cut(head) else head


def _is_cut(head: bytes) -> bool:
    try:
        head.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        return error.start >= len(head) - 3
    return False


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

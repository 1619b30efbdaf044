"""The files that a benchmark opens: real source files, cut to a length in tokens. Knows no models."""

from __future__ import annotations

import sysconfig
from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

COUNT = 6
STANDARD_LIBRARY = (
    *("argparse.py", "configparser.py", "dataclasses.py", "subprocess.py", "tarfile.py", "threading.py"),
    *("inspect.py", "optparse.py", "shutil.py"),
    *("ast.py", "calendar.py", "codecs.py", "contextlib.py", "csv.py", "difflib.py", "dis.py", "doctest.py"),
    *("enum.py", "fractions.py", "ftplib.py", "functools.py", "gettext.py", "heapq.py", "imaplib.py", "ipaddress.py"),
    *("locale.py", "mailbox.py", "os.py", "pickle.py", "platform.py", "random.py", "smtplib.py", "socket.py"),
    *("statistics.py", "tempfile.py", "traceback.py", "typing.py", "uuid.py", "weakref.py"),
)
"""Long modules that every Python brings along; what they say differs a little between versions."""


@dataclass(frozen=True)
class SourceFile:
    """A file as an editor holds it; `name` is what the model is told."""

    name: str
    text: str


def find_files(paths: Sequence[Path], count: int = COUNT) -> list[SourceFile]:
    """`count` files: those given (or the longest of a folder that is given), without any the standard library's.

    Raises:
        ValueError: there are too few, or one is no UTF-8 text.
    """
    if not paths:
        library = Path(sysconfig.get_path("stdlib"))
        paths = [library / name for name in STANDARD_LIBRARY[:count]]
    whole_folder = len(paths) == 1 and paths[0].is_dir()
    files = _longest(paths[0], count) if whole_folder else [_read(path) for path in paths[:count]]
    if len(files) < count or len({file.text for file in files}) < count:
        raise ValueError(f"{count} different text files are needed, {len(files)} were found; name some with --files")
    return files


def _longest(folder: Path, count: int) -> list[SourceFile]:
    """The folder's longest text files, in the order of their paths."""
    files = []
    for path in sorted(folder.rglob("*")):
        relative = path.relative_to(folder)
        if path.is_file() and not any(part.startswith(".") for part in relative.parts):
            try:
                files.append(replace(_read(path), name=relative.as_posix()))
            except ValueError:
                continue
    chosen = sorted(files, key=lambda file: len(file.text), reverse=True)[:count]
    return [file for file in files if file in chosen]


def _read(path: Path) -> SourceFile:
    try:
        return SourceFile(path.name, path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} can't be read as text: {error}") from error


def trim(file: SourceFile, tokens: int, count: Callable[[str], int]) -> SourceFile:
    """The file up to the line end at which it first has `tokens` tokens by `count`, or all of it if it is shorter."""
    lines = file.text.splitlines(keepends=True)
    needed = bisect_left(range(len(lines)), tokens, key=lambda length: count("".join(lines[:length])))
    return replace(file, text="".join(lines[:needed]))


def cut(file: SourceFile, characters: int) -> SourceFile:
    """The file's first whole lines, of at most so many characters in all; for those who have no tokens to count."""
    return replace(file, text=file.text[: file.text.rfind("\n", 0, characters) + 1])


def excerpt(file: SourceFile, share: float, tokens: int, count: Callable[[str], int]) -> SourceFile:
    """About `tokens` tokens of the file, from a line on that has `share` of all lines before it."""
    lines = file.text.splitlines(keepends=True)
    return trim(replace(file, text="".join(lines[int(share * len(lines)) :])), tokens, count)


def edit(file: SourceFile) -> SourceFile:
    """The file with a line a third of the way down changed, as someone who types there would."""
    lines = file.text.splitlines(keepends=True)
    place = len(lines) // 3
    return replace(file, text="".join([*lines[:place], f"{lines[place].rstrip()}  # changed\n", *lines[place + 1 :]]))

"""What befalls a context between two questions, as changes to its chunks. Knows nothing of KV."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from benchmarks.fidelity_sets import Loaded
from benchmarks.reader import Reader, add
from engine.chunk_kv import ChunkKV
from engine.context_manager import ContextManager


@dataclass(frozen=True)
class Case:
    """A change between two questions.

    Attributes:
        without_last: the last file comes in only with the change.
        anchored: indices of files whose KV is at first that of standing right behind the head.
        judged: the mode that must come close to a cold run; `repaired` where later files may have built on what is
            dropped, None where nothing short of exact KV has to.
    """

    name: str
    change: Callable[[ContextManager, Loaded], object]
    without_last: bool = False
    anchored: tuple[int, ...] = ()
    judged: str | None = None

    def files_before(self, loaded: Loaded) -> Sequence[tuple[str, str]]:
        """The files that are there before the change, as (path, text)."""
        return loaded.files[:-1] if self.without_last else loaded.files

    def kv_before(self, reader: Reader, world: str, loaded: Loaded) -> dict[str, ChunkKV]:
        """Where the chunks' KV is before the change."""
        alone = [loaded.files[index] for index in self.anchored]
        together = [file for file in self.files_before(loaded) if file not in alone]
        kv: dict[str, ChunkKV] = {}
        for files in (together, *([file] for file in alone)):
            manager = reader.context(world, files)
            reader.compute(manager, None).close()
            kv |= manager.kv
        return kv


def _paths(loaded: Loaded) -> list[str]:
    return [path for path, _ in loaded.files]


def _drop(index: int) -> Callable[[ContextManager, Loaded], object]:
    return lambda manager, loaded: manager.set_active([_paths(loaded)[index]], False)


def _edit(manager: ContextManager, loaded: Loaded) -> None:
    """Change the value that another file uses."""
    add(manager, _paths(loaded)[loaded.set.defines], loaded.edited)


def _edit_first(manager: ContextManager, loaded: Loaded) -> None:
    path, text = loaded.files[0]
    lines = text.splitlines(keepends=True)
    middle = len(lines) // 2
    lines.insert(middle, "# changed here\n")
    add(manager, path, "".join(lines))


def _edit_and_move(manager: ContextManager, loaded: Loaded) -> None:
    _edit_first(manager, loaded)
    manager.move(_paths(loaded)[0], -1)


def _insert(position: int) -> Callable[[ContextManager, Loaded], object]:
    """The last file is not there at first; then it comes to stand at `position`."""

    def change(manager: ContextManager, loaded: Loaded) -> None:
        add(manager, *loaded.files[-1])
        manager.move(_paths(loaded)[-1], position)

    return change


CASES = (
    Case("edit a value in the middle", _edit, judged="near"),
    Case("edit the first file", _edit_first, judged="near"),
    Case("edit the first file, move it to the end", _edit_and_move),
    Case("drop a file in the middle", _drop(3), judged="near"),
    Case("drop the first file", _drop(0), judged="repaired"),
    Case("drop the file that others build on", lambda m, s: _drop(s.set.defines)(m, s), judged="repaired"),
    Case("insert a file in the middle", _insert(3), without_last=True),
    Case("insert a file at the front", _insert(0), without_last=True),
    Case("move the first file to the end", lambda m, s: m.move(_paths(s)[0], -1)),
    Case("move the last file to the front", lambda m, s: m.move(_paths(s)[-1], 0)),
    Case("swap two files in the middle", lambda m, s: m.move(_paths(s)[3], 2)),
    Case("bring in one anchored file", _insert(3), without_last=True, anchored=(-1,)),
    Case("all files anchored", lambda m, s: None, anchored=(0, 1, 2, 3, 4, 5)),
)

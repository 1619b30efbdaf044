"""Paths, folders and globs to files; what a file must be to become a chunk."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ctx_lsp.workspace.workspace_files import MAX_BYTES, UnusableFileError, complete_path, read_text, select


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A repository with ignored files on several levels."""
    root = tmp_path / "repo"
    files = {
        ".gitignore": "build/\n*.log\n!keep.log\n",
        ".git/config": "[core]",
        "README.md": "readme",
        "src/main.py": "main",
        "src/util.py": "util",
        "src/deep/inner.py": "inner",
        "src/deep/.gitignore": "secret*\n!secret-not.py\n",
        "src/deep/secret.py": "secret",
        "src/deep/secret-not.py": "not secret",
        "build/out.py": "out",
        "debug.log": "log",
        "keep.log": "kept",
        "src/__pycache__/main.pyc": "cache",
        "with space.txt": "spaced",
    }
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def names(root: Path, *paths: str, base: Path | None = None) -> list[str]:
    return [path.relative_to(root).as_posix() for path in select(paths, base or root).files]


TRACKED = [
    ".gitignore",
    "README.md",
    "keep.log",
    "with space.txt",
    "src/main.py",
    "src/util.py",
    "src/deep/.gitignore",
    "src/deep/inner.py",
    "src/deep/secret-not.py",
]


@pytest.mark.parametrize(
    ("paths", "found"),
    [
        (["."], TRACKED),
        (["src/main.py", "README.md", "src/main.py"], ["src/main.py", "README.md"]),
        (["src/deep"], ["src/deep/.gitignore", "src/deep/inner.py", "src/deep/secret-not.py"]),
        (["src/*.py"], ["src/main.py", "src/util.py"]),
        (["**/*.py"], ["src/main.py", "src/util.py", "src/deep/inner.py", "src/deep/secret-not.py"]),
        (["src/**/*.py"], ["src/main.py", "src/util.py", "src/deep/inner.py", "src/deep/secret-not.py"]),
        (["src/ma?n.py", "src/[u]til.py"], ["src/main.py", "src/util.py"]),
        (["*.md"], ["README.md"]),
        (["build/out.py", "debug.log"], ["build/out.py", "debug.log"]),
        (["with space.txt"], ["with space.txt"]),
        (["src/../README.md"], ["README.md"]),
    ],
)
def test_what_paths_mean(tree: Path, paths: list[str], found: list[str]) -> None:
    assert names(tree, *paths) == found


def test_rules_from_above_hold_in_a_folder_below(tree: Path) -> None:
    (tree / "src" / "trace.log").write_text("log")
    assert "src/trace.log" not in names(tree, ".", base=tree / "src")
    assert "src/trace.log" not in names(tree, "src")


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("nowhere.py", "no such file"),
        ("src/*.c", "nothing matches"),
        ("build", "the folder holds no files that Git would track"),
        ("empty", "the folder holds no files that Git would track"),
        ("", "the folder holds"),
    ],
)
def test_what_is_asked_for_in_vain_has_a_reason(tree: Path, path: str, reason: str) -> None:
    (tree / "empty").mkdir()
    base = tree if path else tree / "empty"
    selection = select([path], base)
    assert selection.files == ()
    assert [item.path for item in selection.skipped] == [path]
    assert selection.skipped[0].reason.startswith(reason)


def test_absolute_paths_and_home(tree: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tree))
    assert names(tree, str(tree / "README.md"), "~/src/main.py", base=tmp_path) == ["README.md", "src/main.py"]


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"a\x00b", "binary"),
        (b"caf\xe9", "not UTF-8 (byte 3)"),
        (b"", "empty"),
        (b"\xef\xbb\xbf", "empty"),
        (b"x" * (MAX_BYTES + 1), f"larger than 1024 KiB ({MAX_BYTES + 1:,} bytes)"),
    ],
)
def test_unusable_files_say_why(tmp_path: Path, data: bytes, reason: str) -> None:
    path = tmp_path / "file"
    path.write_bytes(data)
    with pytest.raises(UnusableFileError) as caught:
        read_text(path)
    assert str(caught.value) == reason


def test_what_is_no_file_says_so(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for name, reason in (("pipe", "not a regular file"), ("gone", "no such file")):
        with pytest.raises(UnusableFileError, match=reason):
            read_text(tmp_path / name)


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_a_file_that_may_not_be_read_says_so(tmp_path: Path) -> None:
    path = tmp_path / "mine"
    path.write_text("x")
    path.chmod(0)
    with pytest.raises(UnusableFileError, match="Permission denied"):
        read_text(path)


def test_text_is_kept_as_it_is_but_for_the_byte_order_mark(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes("\ufeffone\r\ntwo\rthree\n".encode())
    assert read_text(path) == "one\r\ntwo\rthree\n"


def test_links_to_folders_are_not_followed(tree: Path) -> None:
    (tree / "src" / "loop").symlink_to(tree)
    assert names(tree, "src/loop/README.md") == ["src/loop/README.md"]
    assert [name for name in names(tree, ".") if "loop/" in name] == []


@pytest.mark.parametrize(
    ("typed", "completions"),
    [
        ("s", ["src/"]),
        ("src/", ["src/deep/", "src/main.py", "src/util.py"]),
        ("src/m", ["src/main.py"]),
        ("src/deep/.", ["src/deep/.gitignore"]),
        ("nowhere/x", []),
    ],
)
def test_paths_complete_one_level_at_a_time(tree: Path, typed: str, completions: list[str]) -> None:
    found = [path for path in complete_path(typed, tree) if "__pycache__" not in path]
    assert found == completions

"""Where state is kept: one private folder per workspace, files whole or not at all."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from ctx_lsp import state_folder


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(state_folder.FOLDER_VARIABLE, str(tmp_path / "state"))
    return tmp_path / "state"


def test_workspaces_have_folders_of_their_own(home: Path) -> None:
    one, two = Path("/w/one"), Path("/w/two")
    folders = [state_folder.workspace_folder(paths) for paths in ([], [one], [two], [one, two], [Path("/other/one")])]
    assert len(set(folders)) == len(folders)
    assert {folder.parent for folder in folders} == {home / "workspaces"}
    assert state_folder.workspace_folder([two, one]) == state_folder.workspace_folder([one, two])
    assert folders[1].name.startswith("one-")


def test_what_is_set_aside_is_never_written_over(home: Path) -> None:
    path = home / "file"
    aside = []
    for text in ("one", "two"):
        state_folder.write_private(path, text)
        aside.append(state_folder.set_aside(path))
    assert [file.read_text() for file in aside] == ["one", "two"]
    assert not path.exists()


def test_without_the_variable_it_is_the_users_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(state_folder.FOLDER_VARIABLE, raising=False)
    monkeypatch.setenv("XDG_STATE_HOME", "/somewhere/state")
    assert state_folder.state_folder() == Path("/somewhere/state/ctx-lsp")


def test_files_and_folders_are_the_users_alone(home: Path) -> None:
    path = home / "a" / "b" / "file"
    state_folder.write_private(path, "one")
    state_folder.write_private(path, "two")
    assert path.read_text() == "two"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert {stat.S_IMODE(folder.stat().st_mode) for folder in (home, home / "a", path.parent)} == {0o700}
    assert os.listdir(path.parent) == ["file"]


def test_a_write_that_fails_leaves_what_was_there(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = home / "file"
    state_folder.write_private(path, "old")

    def refuse(*_: object) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(OSError, match="no space"):
        state_folder.write_private(path, "new")
    assert path.read_text() == "old"
    assert os.listdir(home) == ["file"]

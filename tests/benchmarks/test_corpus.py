"""The files of a benchmark are real ones, cut at line ends and edited in one line."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.corpus import COUNT, SourceFile, edit, find_files, trim


def words(text: str) -> int:
    return len(text.split())


def test_without_files_it_takes_the_standard_librarys() -> None:
    files = find_files(())
    assert len(files) == COUNT
    assert all(words(file.text) > 1000 for file in files)
    compile(files[0].text, files[0].name, "exec")


def test_of_a_folder_it_takes_the_longest_texts(tmp_path: Path) -> None:
    for number in range(COUNT + 2):
        path = tmp_path / f"part{number % 2}" / f"{number}.txt"
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"{number}\n" * (number + 1))
    (tmp_path / "picture.png").write_bytes(b"\xff\x00" * 100)
    (tmp_path / ".hidden").write_text("x\n" * 100)
    names = [file.name for file in find_files([tmp_path])]
    assert names == ["part0/2.txt", "part0/4.txt", "part0/6.txt", "part1/3.txt", "part1/5.txt", "part1/7.txt"]


def test_files_that_are_given_keep_their_order(tmp_path: Path) -> None:
    paths = [tmp_path / f"{name}.py" for name in "fedcba"]
    for path in paths:
        path.write_text(f"{path.stem} = 1\n")
    assert [file.name for file in find_files(paths)] == [path.name for path in paths]
    paths[1].write_text(paths[0].read_text())
    with pytest.raises(ValueError, match="6 different text files"):
        find_files(paths)
    paths[1].unlink()
    with pytest.raises(ValueError, match=r"e\.py can't be read"):
        find_files(paths)


@pytest.mark.parametrize(("tokens", "lines"), [(1, 1), (3, 1), (4, 2), (30, 10), (31, 10)])
def test_trimming_ends_at_the_line_that_reaches_the_length(tokens: int, lines: int) -> None:
    line = "one two three\n"
    assert trim(SourceFile("a", line * 10), tokens, words).text == line * lines


def test_an_edit_changes_one_line() -> None:
    before = SourceFile("a.py", "one = 1\ntwo = 2\nthree = 3\n")
    after = edit(before)
    assert after.name == before.name
    assert after.text == "one = 1\ntwo = 2  # changed\nthree = 3\n"

"""The fenced blocks of an answer: where they are, what they hold, which file they are for."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from ctx_lsp.chat.block_paths import path_before, path_in_text, read_info
from ctx_lsp.chat.code_blocks import Block, find_blocks
from tests.lsp.driver import Driver, EngineSetup, chat


def one(answer: str) -> Block:
    (block,) = find_blocks(answer)
    return block


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        ("```py\nx\n```", "x\n"),
        ("~~~\nx\n~~~\n", "x\n"),
        ("```\nx\n~~~\n```", "x\n~~~\n"),
        ("````md\n```py\nx\n```\n````", "```py\nx\n```\n"),
        ("```markdown\n# T\n```py\nx\n```\nend\n```", "# T\n```py\nx\n```\nend\n"),
        ("```py\n'''\n    ```\n    x\n    ```\n'''\n```", "'''\n    ```\n    x\n    ```\n'''\n"),
        ("1. Do\n   ```py\n   x\n\n     y\n   ```", "x\n\n  y\n"),
        ("- ```py\n  x\n  ```", "x\n"),
        ("> ```py\n> x\n>  y\n> ```", "x\n y\n"),
        ("> ```py\n> x\nnot quoted", "x\n"),
        ("```py\nx", "x\n"),
        ("```py\n", ""),
        ("```py\r\nx\r\n```\r\n", "x\n"),
        ("```\n\n```", "\n"),
        ("```\n```", ""),
    ],
)
def test_what_is_in_a_block(answer: str, text: str) -> None:
    assert one(answer).text == text


@pytest.mark.parametrize("answer", ["", "no code", "`x`", "``` inline ``` code", "``x``\n"])
def test_what_is_no_block(answer: str) -> None:
    assert find_blocks(answer) == []


def test_a_markdown_block_that_ends_too_soon_takes_nothing_along() -> None:
    blocks = find_blocks("```md\n# T\n```py\nx\n```\ntext\n")
    assert [block.text for block in blocks] == ["# T\n```py\nx\n"]


def test_where_a_block_is() -> None:
    answer = "1. a\n   ```py\n   x\n   ```  \nb\n~~~\ny"
    assert [answer[block.start : block.end] for block in find_blocks(answer)] == ["```py\n   x\n   ```  ", "~~~\ny"]


LINES = st.lists(st.sampled_from(["```", "```py", "````", "~~~", "~~~js x", "text", "  ```", "    y", ""]), max_size=12)


@given(LINES)
def test_blocks_are_those_that_an_editor_shows(lines: list[str]) -> None:
    """Where a model keeps to CommonMark, its rules hold."""
    answer = "\n".join(lines)
    shown = [token for token in MarkdownIt().parse(answer) if token.type == "fence"]
    found = find_blocks(answer)
    assert [(block.language or "") for block in found] == [token.info.partition(" ")[0] for token in shown]
    assert [block.text.rstrip("\n") for block in found] == [token.content.rstrip("\n") for token in shown]


@given(st.text(alphabet="`~>- \n\r1.apy:/", max_size=60))
def test_blocks_stand_in_order_and_apart(answer: str) -> None:
    end = 0
    for block in find_blocks(answer):
        assert end <= block.start < block.end <= len(answer)
        assert answer[block.start : block.start + 3] in ("```", "~~~")
        end = block.end


@given(st.lists(st.text(alphabet="ab`~ \n", max_size=20), max_size=4))
def test_what_is_fenced_well_comes_back(texts: list[str]) -> None:
    fence = "`" * 25
    answer = "\n\n".join(f"{fence}py\n{text}\n{fence}" for text in texts)
    assert [block.text for block in find_blocks(answer)] == [f"{text}\n" for text in texts]


@pytest.mark.parametrize(
    ("info", "language", "path"),
    [
        ("", None, None),
        ("python", "python", None),
        ("python src/a.py", "python", "src/a.py"),
        ("python:src/a.py", "python", "src/a.py"),
        ("src/a.py", None, "src/a.py"),
        ('ts title="my file.ts"', "ts", "my file.ts"),
        ("ts path='src/a.ts' {1,3}", "ts", "src/a.ts"),
        ("{.python file=a.py}", "python", "a.py"),
        ("rust,ignore", "rust", None),
        ("12:30:src/a.py", None, "src/a.py"),
        ("asp.net", "asp.net", None),
        (".py", "py", None),
        ("c++ showLineNumbers", "c++", None),
        ("docker Dockerfile", "docker", "Dockerfile"),
        ("ts:C:\\src\\a.ts", "ts", "C:\\src\\a.ts"),
        ("sh https://a.b/c.sh", "sh", None),
    ],
)
def test_info_strings(info: str, language: str | None, path: str | None) -> None:
    assert read_info(info) == (language, path)


@pytest.mark.parametrize(
    ("line", "path"),
    [
        ("**`src/a.py`**", "src/a.py"),
        ("**src/a.py**:", "src/a.py"),
        ("### 2. src/a.py", "src/a.py"),
        ("## `src/a.py`", "src/a.py"),
        ("File: src/a.py", "src/a.py"),
        ("**Filename:** `a.py`", "a.py"),
        ("- src/a.py:", "src/a.py"),
        ("1. `src/a.py`", "src/a.py"),
        ("Change `src/a.py` like this:", "src/a.py"),
        ("Move it from `a.py` to `b.py`:", None),
        ("This is in `src/a.py`.", None),
        ("Like this:", None),
        ("e.g.", None),
        (".env:", ".env"),
    ],
)
def test_the_line_before(line: str, path: str | None) -> None:
    assert path_before(["other", line, ""]) == path


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("# src/a.py\nx\n", "src/a.py"),
        ("// File: src/a.ts\n", "src/a.ts"),
        ("/* a.css */\n", "a.css"),
        ("<!-- index.html -->\n", "index.html"),
        ("-- lua/a.lua\n", "lua/a.lua"),
        ("# Say hello\n", None),
        ("#!/bin/sh\n", None),
        ("src/a.py\n", None),
        ("--- a/src/a.py\n+++ b/src/b.py\n@@ -1 +1 @@\n", "src/b.py"),
        ("--- a/src/a.py\t2020\n+++ /dev/null\n", "src/a.py"),
        ("src/a.py\n<<<<<<< SEARCH\n", "src/a.py"),
    ],
)
def test_the_text_itself(text: str, path: str | None) -> None:
    assert path_in_text(text) == path


@pytest.mark.parametrize(("encoding", "width"), [("utf-8", 4), ("utf-16", 2), ("utf-32", 1)])
async def test_offsets_count_as_agreed(driver: Driver, engine: EngineSetup, encoding: str, width: int) -> None:
    engine.behave(answer=["😀\n", "```py src/a.py\n", "😀\n", "```"])
    client = await driver.initialize(driver.start_local(), {"general": {"positionEncodings": [encoding]}})
    (block,) = (await client.request("ctx/chat", chat()))["codeBlocks"]
    start = width + 1
    assert block == {
        "language": "py",
        "path": "src/a.py",
        "text": "😀\n",
        "start": start,
        "end": start + len("```py src/a.py\n") + width + len("\n```"),
    }

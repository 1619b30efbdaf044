"""README and docs: what they promise is there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from ctx_lsp.commands import slash

ROOT = Path(__file__).parent.parent
PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
README = (ROOT / "README.md").read_text()


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_relative_links_lead_somewhere(page: Path):
    links = re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text())
    assert [link for link in links if not (page.parent / link).exists()] == []


def test_every_page_of_docs_is_in_the_index():
    index = (ROOT / "docs" / "README.md").read_text()
    pages = {path.name for path in (ROOT / "docs").glob("*.md")} - {"README.md"}
    assert {page for page in pages if f"({page})" not in index} == set()


def test_the_readme_has_every_slash_command_and_no_other():
    commands = {f"/{usage.name.removeprefix('/')}" for usage in slash.usages()}
    rows = "".join(line for line in README.splitlines() if line.startswith("| `/"))
    assert set(re.findall(r"`(/[a-z]+)", rows)) == commands


def test_the_readme_names_only_targets_that_make_has():
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"^make ([a-z-]+)", README, re.MULTILINE)) <= targets

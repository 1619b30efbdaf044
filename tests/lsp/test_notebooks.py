"""Notebooks: each cell is a chunk with the client's text, called by its notebook and its id or number."""

from __future__ import annotations

from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from lsprotocol import types

from ctx_lsp.workspace.notebooks import Notebook
from tests.lsp.driver import Driver, EngineSetup, edit
from tests.lsp.wire_client import LocalClient


class Editor:
    """An editor with one notebook; cells are (name, id, text)."""

    def __init__(self, driver: Driver, client: LocalClient, path: str = "nb/work.ipynb") -> None:
        self.uri = driver.uri(path)
        self.client = client
        self.version = 1

    def cell_uri(self, name: str) -> str:
        return self.uri.replace("file:", "vscode-notebook-cell:") + f"#{name}"

    def cell(self, name: str, id: str | None) -> dict[str, Any]:
        metadata = {} if id is None else {"id": id}
        return {"kind": 2, "document": self.cell_uri(name), "metadata": metadata}

    def item(self, name: str, text: str) -> dict[str, Any]:
        return {"uri": self.cell_uri(name), "languageId": "python", "version": 1, "text": text}

    def open(self, *cells: tuple[str, str | None, str]) -> None:
        notebook = {
            "uri": self.uri,
            "notebookType": "jupyter-notebook",
            "version": 1,
            "cells": [self.cell(name, id) for name, id, _ in cells],
        }
        items = [self.item(name, text) for name, _, text in cells]
        self.client.notify("notebookDocument/didOpen", {"notebookDocument": notebook, "cellTextDocuments": items})

    def change(self, **cells: Any) -> None:
        self.version += 1
        place = {"uri": self.uri, "version": self.version}
        self.client.notify("notebookDocument/didChange", {"notebookDocument": place, "change": {"cells": cells}})

    def edit(self, name: str, *changes: dict[str, Any]) -> None:
        place = {"uri": self.cell_uri(name), "version": self.version}
        self.change(textContent=[{"document": place, "changes": list(changes)}])

    def insert(self, at: int, name: str, id: str | None, text: str) -> None:
        array = {"start": at, "deleteCount": 0, "cells": [self.cell(name, id)]}
        self.change(structure={"array": array, "didOpen": [self.item(name, text)]})

    def remove(self, at: int, name: str) -> None:
        array = {"start": at, "deleteCount": 1}
        self.change(structure={"array": array, "didClose": [{"uri": self.cell_uri(name)}]})

    def save(self) -> None:
        self.client.notify("notebookDocument/didSave", {"notebookDocument": {"uri": self.uri}})

    def close(self, *names: str) -> None:
        cells = [{"uri": self.cell_uri(name)} for name in names]
        params = {"notebookDocument": {"uri": self.uri}, "cellTextDocuments": cells}
        self.client.notify("notebookDocument/didClose", params)


async def test_cells_are_followed_from_opening_to_closing(driver: Driver, engine: EngineSetup) -> None:
    editor = Editor(driver, await driver.start_ready())
    editor.open(("W0", "intro", "# Title"), ("W1", None, "x = 1"), ("W2", None, ""))
    await engine.wait_texts(lambda t: t == {"nb/work.ipynb#cell-intro": "# Title", "nb/work.ipynb#cell-1": "x = 1"})
    editor.edit("W1", edit((0, 4), (0, 5), "2"), edit((0, 5), (0, 5), "3"))
    editor.edit("W2", {"text": "print(x)"})
    texts = {
        "nb/work.ipynb#cell-intro": "# Title",
        "nb/work.ipynb#cell-1": "x = 23",
        "nb/work.ipynb#cell-2": "print(x)",
    }
    await engine.wait_texts(lambda t: t == texts)
    editor.insert(0, "W9", None, "import os")
    texts["nb/work.ipynb#cell-3"] = "import os"
    await engine.wait_texts(lambda t: t == texts)
    editor.remove(2, "W1")
    del texts["nb/work.ipynb#cell-1"]
    await engine.wait_texts(lambda t: t == texts)
    editor.close("W0", "W2", "W9")
    await engine.wait_texts(lambda t: t == {})


async def test_saving_brings_the_cells_at_once(driver: Driver, engine: EngineSetup) -> None:
    editor = Editor(driver, await driver.start_ready(debounceMs=3_600_000))
    editor.open(("W0", None, "x = 1"))
    await engine.wait_texts(lambda t: t == {"nb/work.ipynb#cell-1": "x = 1"})
    editor.edit("W0", {"text": "x = 2"})
    editor.save()
    await engine.wait_texts(lambda t: t == {"nb/work.ipynb#cell-1": "x = 2"})


async def test_ignored_and_unseen_notebooks_are_left_out(driver: Driver, engine: EngineSetup) -> None:
    driver.write(".gitignore", "nb/")
    client = await driver.start_ready()
    ignored, seen = Editor(driver, client), Editor(driver, client, "seen.ipynb")
    ignored.open(("W0", None, "x = 1"))
    seen.open(("W0", None, "y = 1"))
    await engine.wait_texts(lambda t: t == {"seen.ipynb#cell-1": "y = 1"})
    left = (await client.command("ctx.context"))["leftOut"]
    assert [(item["source"], item["reason"][:21]) for item in left] == [
        ("nb/work.ipynb#cell-1", "ignored by .gitignore")
    ]
    client.notify("ctx/editors/didChangeVisible", {"uris": [driver.uri("else.py")]})
    await engine.wait_texts(lambda t: t == {})
    client.notify("ctx/editors/didChangeVisible", {"uris": [driver.uri("seen.ipynb")]})
    await engine.wait_texts(lambda t: t == {"seen.ipynb#cell-1": "y = 1"})


async def test_changes_to_a_notebook_that_is_not_open_are_ignored(driver: Driver, engine: EngineSetup) -> None:
    editor = Editor(driver, await driver.start_ready())
    editor.insert(0, "W0", None, "lost")
    editor.edit("W0", {"text": "lost"})
    editor.save()
    editor.close("W0")
    assert (await editor.client.command("ctx.context"))["chunks"] == []


@settings(suppress_health_check=[HealthCheck.too_slow])
@given(cells=st.lists(st.tuples(st.integers(0, 9), st.sampled_from([None, "", "1", "2", "abc"]))))
def test_no_two_cells_have_one_name(cells: list[tuple[int, str | None]]) -> None:
    notebook = Notebook("nb.ipynb")
    names: dict[str, str] = {}
    for number, id in cells:
        uri = f"cell:{number}"
        metadata = {} if id is None else {"id": id}
        cell = types.NotebookCell(types.NotebookCellKind.Code, uri, metadata)  # type: ignore[arg-type]
        name = notebook.name(cell)
        assert names.setdefault(uri, name) == name, "it keeps its name"
    assert len(set(names.values())) == len(names)

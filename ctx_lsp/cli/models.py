"""`ctx-lsp models`: lists, fetches and removes the models of the catalogue.

Talks to the catalogue directly, with no engine running. Free of torch: converting happens in a process of its own.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskProgressColumn, TextColumn
from rich.table import Table

from engine.config import DEFAULT_MODEL
from engine.errors import EngineError
from engine.models import catalogue, fetch, gguf
from engine.models.resolve import resolve_model

if TYPE_CHECKING:
    from engine.models.progress import Progress as Report

    Subparsers = argparse._SubParsersAction[argparse.ArgumentParser]


def add_arguments(subparsers: Subparsers) -> None:
    """Adds the `models` command and its own commands to a parser's subparsers."""
    parser = subparsers.add_parser("models", help="list, fetch or remove the models that can be had by name")
    commands = parser.add_subparsers(dest="models_command", metavar="COMMAND", required=True)
    commands.add_parser("list", help="show every model and whether it is on this machine")
    fetching = commands.add_parser("fetch", help="download a model and make it ready; goes on where it was interrupted")
    removing = commands.add_parser("remove", help="delete a model and unfinished downloads of it")
    for command in (fetching, removing):
        command.add_argument("name", metavar="NAME", choices=catalogue.names(), help=", ".join(catalogue.names()))


def run(args: argparse.Namespace) -> int:
    """Runs the parsed command; the exit status is 0, 1 for an error that was told, 130 when interrupted."""
    out, err = _console(), _console(stderr=True)
    try:
        if args.models_command == "list":
            _list(out)
        elif args.models_command == "fetch":
            _fetch(args.name, out, err)
        else:
            _remove(args.name, out)
    except EngineError as error:
        _tell(error, err)
        return 1
    except KeyboardInterrupt:
        err.print("Interrupted. What has been downloaded is kept: the same command goes on from there.")
        return 130
    return 0


def _console(stderr: bool = False) -> Console:
    return Console(stderr=stderr, markup=False, highlight=False, soft_wrap=True)


def _list(console: Console) -> None:
    table = Table("Name", "Download", "State", "License", "Good for", box=None, header_style="bold", pad_edge=False)
    for model in catalogue.CATALOGUE:
        name = f"{model.name} (default)" if model.name == DEFAULT_MODEL else model.name
        table.add_row(name, f"{model.bytes / 1e6:,.0f} MB", state(model), model.license, model.good_for)
    console.print(table)
    console.print(f"Stored in {catalogue.cache_root()}", style="dim")


def state(model: catalogue.CatalogueModel) -> str:
    """`ready` to load, `fetched` (to be converted at first use), `43% fetched`, or `not fetched`."""
    if fetch.is_fetched(model):
        return "ready" if gguf.is_converted(catalogue.model_file(model)) else "fetched"
    staged = fetch.bytes_staged(model)
    return f"{min(staged / model.bytes, 0.99):.0%} fetched" if staged else "not fetched"


def _fetch(name: str, out: Console, err: Console) -> None:
    with _progress_on(err) as report:
        folder = resolve_model(name, progress=report)
    out.print(f"{name} is ready in {folder}")


def _remove(name: str, console: Console) -> None:
    model = catalogue.find(name)
    assert model is not None, "argparse lets only catalogue names through"
    console.print(f"Removed {name}" if fetch.remove(model) else f"{name} is not on this machine")


@contextmanager
def _progress_on(console: Console) -> Iterator[Report]:
    """Reports go to one bar on a terminal; elsewhere every new message is a line."""
    if not console.is_terminal:
        yield _lines_on(console)
        return
    columns = (SpinnerColumn(), TextColumn("{task.description}", markup=False), BarColumn(), TaskProgressColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("Looking", total=None)
        yield lambda message, fraction: progress.update(
            task, description=message, completed=fraction or 0.0, total=None if fraction is None else 1.0
        )


def _lines_on(console: Console) -> Report:
    shown = ""

    def report(message: str, fraction: float | None) -> None:
        nonlocal shown
        if message != shown:
            shown = message
            console.print(message)

    return report


def _tell(error: EngineError, console: Console) -> None:
    console.print(f"Error: {error.message}", style="red")
    for cause in error.data.get("causes", ()):
        console.print(f"  {cause['source']}: {cause['cause']}")

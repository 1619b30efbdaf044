"""What becomes of a benchmark's result: printed, written as JSON, drawn; or drawn later from what was written."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from engine.errors import EngineError

Plot = Callable[[Mapping[str, Any], Path], None]


class Report(Protocol):
    """What a run found out; `wrong` says in words where the engine did not do what it must."""

    def as_json(self) -> dict[str, Any]: ...

    @property
    def wrong(self) -> Sequence[str]: ...


def add_result_options(parser: argparse.ArgumentParser) -> None:
    """What `deliver` reads."""
    parser.add_argument("--json", type=Path, help="write everything to this file")
    parser.add_argument("--plot", type=Path, help="draw it to this file (.svg, .png)")
    parser.add_argument(
        "--plot-from", nargs=2, type=Path, metavar=("JSON", "PLOT"), help="measure nothing: draw what was written"
    )


def deliver(parser: argparse.ArgumentParser, given: argparse.Namespace, run: Callable[[], Report], plot: Plot) -> int:
    """Run as the options say; 1 if the run found a mistake of the engine, 2 if it can't run."""
    if given.plot_from:
        source, target = given.plot_from
        plot(json.loads(source.read_text(encoding="utf-8")), target)
        return 0
    try:
        report = run()
    except (EngineError, ValueError) as error:
        print(f"{parser.prog}: {error}", file=sys.stderr)
        return 2
    print(report)
    found = json.dumps(report.as_json(), indent=1, default=str) + "\n"
    if given.json:
        given.json.write_text(found, encoding="utf-8")
    if given.plot:
        plot(json.loads(found), given.plot)
    return 1 if report.wrong else 0

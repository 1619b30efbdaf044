"""What plots have in common: matplotlib, if it is installed, and files that are the same for the same figures."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def pyplot_for(path: Path) -> Any | None:
    """matplotlib's pyplot, set up to write `path`; None, after saying so, where matplotlib is not installed."""
    try:
        import matplotlib
    except ImportError:
        print(f"matplotlib is not installed: {path} is not drawn")
        return None
    matplotlib.use("agg")
    matplotlib.rcParams["svg.hashsalt"] = path.name
    from matplotlib import pyplot

    return pyplot


def save(pyplot: Any, figure: Any, path: Path) -> None:
    """Write the figure without the date, and forget it."""
    figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)
    pyplot.close(figure)

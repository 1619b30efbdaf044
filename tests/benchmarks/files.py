"""Six short files for the benchmarks' tests."""

from __future__ import annotations

from benchmarks.corpus import SourceFile

FILES = tuple(
    SourceFile(
        f"{name}.py", f"def {name}(left, right):\n    '''The {name} of two.'''\n    return left {sign} right\n" * 4
    )
    for name, sign in (("add", "+"), ("sub", "-"), ("mul", "*"), ("div", "/"), ("mod", "%"), ("power", "**"))
)

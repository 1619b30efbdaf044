"""Facts about Python files, read out of their syntax trees: what a right answer must say.

Names are dotted paths within a file, e.g. ``Config.from_file``. What is not there or not unique raises LookupError.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterable, Mapping
from pathlib import PurePosixPath
from typing import TypeVar

from tests.answers.matching import Expected

T = TypeVar("T")
Files = Mapping[str, str]
Fact = Callable[[Files], Expected]
Function = ast.FunctionDef | ast.AsyncFunctionDef


def default_of(file: str, function: str, parameter: str) -> Fact:
    """The default value of a parameter."""

    def find(files: Files) -> Expected:
        node = _definition(ast.parse(files[file]), function)
        if not isinstance(node, Function):
            raise LookupError(f"{function} is no function")
        arguments = node.args
        named = [*arguments.posonlyargs, *arguments.args]
        with_default = named[len(named) - len(arguments.defaults) :]
        pairs = zip([*with_default, *arguments.kwonlyargs], [*arguments.defaults, *arguments.kw_defaults], strict=True)
        return _value(_only(value for name, value in pairs if name.arg == parameter and value is not None))

    return find


def value_of(file: str, name: str) -> Fact:
    """The value a module's or a class's body gives a name."""
    scope, _, last = name.rpartition(".")

    def find(files: Files) -> Expected:
        tree = ast.parse(files[file])
        body = _definition(tree, scope).body if scope else tree.body
        return _value(_only(value for statement in body if (value := _assigned(statement, last)) is not None))

    return find


def raised_in(file: str, function: str) -> Fact:
    """The one exception a function raises."""

    def find(files: Files) -> Expected:
        nodes = ast.walk(_definition(ast.parse(files[file]), function))
        raised = (node.exc for node in nodes if isinstance(node, ast.Raise) and node.exc)
        names = {ast.unparse(exc.func if isinstance(exc, ast.Call) else exc) for exc in raised}
        return Expected((_only(names),))

    return find


def base_of(file: str, name: str) -> Fact:
    """The one class a class is derived from."""

    def find(files: Files) -> Expected:
        node = _definition(ast.parse(files[file]), name)
        if not isinstance(node, ast.ClassDef):
            raise LookupError(f"{name} is no class")
        return Expected((ast.unparse(_only(node.bases)),))

    return find


def defined_in(name: str) -> Fact:
    """The one file that defines a name at its top level; an answer that names another file as well is wrong."""

    def find(files: Files) -> Expected:
        path = _only(path for path, text in files.items() if _defines(ast.parse(text), name))
        others = tuple(PurePosixPath(other).name for other in files if other != path)
        return Expected((PurePosixPath(path).name,), others)

    return find


def says(file: str, scope: str, text: str) -> Fact:
    """A string that stands in a function or class and nowhere else in the file, for what the others don't express."""

    def find(files: Files) -> Expected:
        tree = ast.parse(files[file])
        if _strings(_definition(tree, scope)).count(text) != _strings(tree).count(text) or text not in _strings(tree):
            raise LookupError(f"{text!r} doesn't stand in {scope} alone")
        return Expected((text,))

    return find


def _strings(tree: ast.AST) -> list[str]:
    constants = (node.value for node in ast.walk(tree) if isinstance(node, ast.Constant))
    return [value for value in constants if isinstance(value, str)]


def _definition(tree: ast.Module, name: str) -> ast.ClassDef | Function:
    body: list[ast.stmt] = tree.body
    for part in name.split("."):
        named = (node for node in body if isinstance(node, ast.ClassDef | Function) and node.name == part)
        node = _only(node for node in named if not _is_overload(node))
        body = node.body
    return node


def _is_overload(node: ast.ClassDef | Function) -> bool:
    return any(ast.unparse(decorator).endswith("overload") for decorator in node.decorator_list)


def _assigned(statement: ast.stmt, name: str) -> ast.expr | None:
    match statement:
        case ast.Assign(targets=[ast.Name(id=target)], value=value) if target == name:
            return value
        case ast.AnnAssign(target=ast.Name(id=target), value=value) if target == name:
            return value
    return None


def _defines(tree: ast.Module, name: str) -> bool:
    return any(
        (isinstance(node, ast.ClassDef | Function) and node.name == name) or _assigned(node, name) is not None
        for node in tree.body
    )


def _value(node: ast.expr) -> Expected:
    """A string by what it says, anything else as it is written."""
    match node:
        case ast.Constant(value=str(text)) if text:
            return Expected((text,))
        case ast.Constant(value=bool(truth)):
            return Expected((str(truth),), (str(not truth),))
        case ast.List(elts=[ast.Constant(value=str(text))]):
            return Expected((text,))
    return Expected((ast.unparse(node),))


def _only(found: Iterable[T]) -> T:
    items = list(found)
    if len(items) != 1:
        raise LookupError(f"expected one, found {items}")
    return items[0]

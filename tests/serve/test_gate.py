"""Who gets in: token, Host header, size of the body; and the shape of every refusal."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest

from tests.serve.fake_engine import FakeEngine
from tests.serve.serving import TOKEN, Served, error_of, serving

ROUTES = [
    ("GET", "/health"),
    ("GET", "/metrics"),
    ("GET", "/v1/stats"),
    ("GET", "/v1/models"),
    ("POST", "/v1/shutdown"),
    ("GET", "/nowhere"),
]


@pytest.mark.parametrize(("method", "path"), ROUTES)
@pytest.mark.parametrize(
    "header", [None, "", "Bearer", "Bearer wrong", f"Basic {TOKEN}", f"Bearer {TOKEN}x", "Bearer é"]
)
def test_without_the_token_nobody_gets_in(served: Served, method: str, path: str, header: str | None) -> None:
    headers = [] if header is None else [(b"Authorization", header.encode("latin-1"))]
    with httpx.Client(base_url=served.url, trust_env=False) as stranger:
        response = stranger.request(method, path, headers=headers)
    assert response.status_code == 401
    assert response.headers["www-authenticate"] == "Bearer"
    assert error_of(response)["code"] == "unauthorized"
    assert served.client.get("/health").status_code == 200


@pytest.mark.parametrize("host", ["evil.example", "evil.example:80", "127.0.0.1.evil.example", "", "127.0.0.2"])
def test_hosts_that_are_not_loopback_are_refused(served: Served, host: str) -> None:
    response = served.client.get("/health", headers={"Host": host})
    assert response.status_code == 403
    assert error_of(response)["code"] == "forbidden_host"


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "LocalHost:1234", "[::1]:80", "[::1]"])
def test_loopback_hosts_are_let_in(served: Served, host: str) -> None:
    assert served.client.get("/health", headers={"Host": host}).status_code == 200


@pytest.fixture
def small() -> Iterator[Served]:
    with serving(FakeEngine(), max_body=1000) as served:
        served.put()
        yield served


@pytest.mark.parametrize("size", [2_000, 12_000, 3_000_000])
def test_a_body_that_is_announced_as_too_large(small: Served, size: int) -> None:
    response = small.post("/v1/contexts/c/chunks", {"text": "x" * size})
    assert response.status_code == 413
    assert error_of(response)["code"] == "body_too_large"
    assert error_of(response)["data"] == {"limit": 1000}
    small.add("x" * 100)


def test_a_body_that_turns_out_too_large(small: Served) -> None:
    def pieces() -> Iterator[bytes]:
        yield b'{"text": "'
        for _ in range(100):
            yield b"x" * 100
        yield b'"}'

    headers = {"Content-Type": "application/json"}
    response = small.client.post("/v1/contexts/c/chunks", content=pieces(), headers=headers)
    assert response.status_code == 413
    assert error_of(response)["code"] == "body_too_large"
    small.add("x" * 100)


def test_unknown_routes_and_methods(served: Served) -> None:
    response = served.client.get("/v1/nowhere")
    assert (response.status_code, error_of(response)["code"]) == (404, "unknown_route")
    response = served.client.post("/health")
    assert (response.status_code, error_of(response)["code"]) == (405, "method_not_allowed")

"""A session over a real server of OpenAI's API: llama.cpp's, with a model of the catalogue.

CTX_LSP_LLAMA_SERVER is the command that starts one, to which `--model FILE --port N` is added, e.g. ``llama-server``,
``python -m llama_cpp.server``, or ``python tests/lsp/xllamacpp_server.py`` where the wheel xllamacpp is installed.
"""

from __future__ import annotations

import os
import shlex
import socket
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import pytest

from engine.models import catalogue
from tests.lsp.driver import Driver, chat, eventually, ready

COMMAND = os.environ.get("CTX_LSP_LLAMA_SERVER")
CHOSEN = catalogue.find("smollm2-135m")
assert CHOSEN is not None
MODEL = catalogue.model_file(CHOSEN)

pytestmark = [
    pytest.mark.skipif(not COMMAND, reason="CTX_LSP_LLAMA_SERVER doesn't say how to start a llama.cpp server"),
    pytest.mark.skipif(not MODEL.exists(), reason="smollm2-135m is not in the cache (ctx-lsp models fetch)"),
]


@pytest.fixture
def url(tmp_path: Path) -> Iterator[str]:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [*shlex.split(COMMAND or ""), "--model", str(MODEL), "--port", str(port)]
    with (tmp_path / "server.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
        try:
            yield f"http://127.0.0.1:{port}/v1"
        finally:
            process.terminate()
            process.wait()


async def listening(url: str) -> bool:
    with suppress(httpx.TransportError):
        async with httpx.AsyncClient(trust_env=False) as http:
            return (await http.get(f"{url}/models")).status_code == 200
    return False


def functions(name: str) -> str:
    return "".join(f"def {name}_{number}(x):\n    return x + {number}\n\n\n" for number in range(8))


async def test_files_are_warm_and_what_is_before_an_edit_stays_so(driver: Driver, url: str) -> None:
    await eventually(lambda: listening(url), bool)
    client = await ready(await driver.start(engine={"url": url}, maxContext=2048, files={"maxTokens": 0}))
    for name in ("alpha.py", "beta.py"):
        driver.open(client, name, functions(name.removesuffix(".py")))
    sampling = {"maxTokens": 8}
    first = await client.request("ctx/chat", chat("What does beta_2 return?", "t1", sampling=sampling))
    assert first["text"]
    assert first["fidelity"] == "exact"
    driver.change(client, "beta.py", 2, {"text": functions("beta") + "def beta_last():\n    return 99\n"})
    second = await client.request("ctx/chat", chat("What does beta_last return?", "t2", sampling=sampling))
    assert second["text"]
    usage: dict[str, Any] = second["usage"]
    assert usage["reusedTokens"] > 0
    assert second["chunks"][0]["prefill"] <= 2, "all of alpha.py is still there"
    assert usage["reusedTokens"] + usage["prefilledTokens"] == usage["promptTokens"]

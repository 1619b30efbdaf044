"""The server trace's sides over HTTP: ctx-engine, which keeps the files, and servers that get them with each question.

A side goes through a round's actions one by one. Knows nothing of processes or tables.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, Protocol
from urllib.parse import quote

import httpx

from benchmarks.corpus import SourceFile
from benchmarks.server_actions import Action
from benchmarks.server_stream import Reply, ask
from engine.chunk_frame import ChunkText, frame
from engine.config import DEFAULT_INSTRUCTIONS, Fidelity
from engine.types import ChunkKind

_POLL_SECONDS = 0.1
_QUIET_POLLS = 3
_REST_SECONDS = 0.3
"""What a server may go on with after an answer, e.g. saving its KV, is not to slow down the next side."""


class Side(Protocol):
    """Goes through a round: `begin`, then for each action `change`, `ask` and `settle`."""

    name: str

    def begin(self, number: int) -> None: ...

    def change(self, action: Action) -> float:
        """Seconds that it took to tell the server."""
        ...

    def ask(self, action: Action) -> Reply: ...

    def settle(self) -> None:
        """Return when the server is idle."""
        ...


class EngineSide:
    """ctx-engine: a context per round, of fixed order."""

    name = "ctx-lsp"

    def __init__(self, http: httpx.Client, answer_tokens: int, fidelity: Fidelity) -> None:
        self._http = http
        self._body = {"max_tokens": answer_tokens, "fidelity": fidelity}
        self._context = ""

    def begin(self, number: int) -> None:
        if self._context:
            self._send("DELETE", "")
        self._context = f"round-{number}"
        self._send("PUT", "", {"order": "fixed"})

    def change(self, action: Action) -> float:
        began = time.perf_counter()
        action.change(self)
        return time.perf_counter() - began

    def ask(self, action: Action) -> Reply:
        messages = [{"role": "user", "content": action.question}]
        return ask(self._http, {**self._body, "messages": messages, "context": self._context})

    def settle(self) -> None:
        """Until all KV is exact and the engine computes no more, as it does while its user reads and types."""
        self._send("POST", "/populate")
        computed, quiet = -1, 0
        while quiet < _QUIET_POLLS:
            time.sleep(_POLL_SECONDS)
            now = self._http.get("/v1/stats").json()["tokens_prefilled"]
            quiet = quiet + 1 if now == computed and self._is_exact() else 0
            computed = now

    def _is_exact(self) -> bool:
        chunks = self._send("GET", "/chunks")["chunks"]
        return all(
            chunk["fidelity"] == "exact" and chunk["warm_tokens"] == chunk["tokens"]
            for chunk in chunks
            if chunk["active"]
        )

    # -- the files it keeps --------------------------------------------------------------------------------------------

    def put(self, file: SourceFile) -> None:
        self._send("POST", "/chunks", {"text": file.text, "source": file.name})

    def switch_off(self, name: str) -> None:
        self._send("POST", "/deactivate", {"refs": [name]})

    def switch_on(self, name: str) -> None:
        self._send("POST", "/activate", {"refs": [name]})

    def move(self, name: str, position: int) -> None:
        self._send("POST", "/move", {"ref": name, "position": position})

    def _send(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        answer = self._http.request(method, f"/v1/contexts/{quote(self._context, safe='')}{path}", json=body)
        if answer.is_error:
            raise ValueError(f"ctx-engine says {answer.status_code}: {answer.text[:300]}")
        return answer.json()


class PromptSide:
    """Any server of OpenAI's API: the whole prompt, laid out as ctx-engine lays it out, comes with each question."""

    def __init__(self, name: str, http: httpx.Client, answer_tokens: int) -> None:
        self.name = name
        self._http = http
        self._tokens = answer_tokens

    def begin(self, number: int) -> None:
        pass

    def change(self, action: Action) -> float:
        return 0.0

    def ask(self, action: Action) -> Reply:
        return ask(self._http, {"messages": messages(action.files, action.question), "max_tokens": self._tokens})

    def settle(self) -> None:
        time.sleep(_REST_SECONDS)


def messages(files: Sequence[SourceFile], question: str) -> list[dict[str, str]]:
    """The prompt that ctx-engine makes of the same files and question."""
    frames = [frame(ChunkText(file.text, (file.name,), ChunkKind.FILE, file.name)) for file in files]
    system = "".join([f"{DEFAULT_INSTRUCTIONS}\n", *frames])
    return [{"role": "system", "content": system}, {"role": "user", "content": question}]

"""A server of OpenAI's API over HTTP: what it serves, how it counts tokens, and its streamed answers.

Knows the dialects of vLLM, SGLang, llama-server and llama-cpp-python; knows nothing of chunks or contexts.
"""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx

from ctx_lsp.engines.client import AnswerPiece, EngineLostError, RemoteEngineError
from ctx_lsp.engines.events import read_events
from ctx_lsp.engines.openai_errors import refusal
from ctx_lsp.protocol import DeltaKind
from engine.errors import ModelNotFoundError
from engine.types import Message

_CONNECT_SECONDS = 5.0
_COUNT_SECONDS = 30.0
_DELTA_FIELDS: dict[str, DeltaKind] = {"reasoning_content": "reasoning", "reasoning": "reasoning", "content": "answer"}


@dataclass(frozen=True)
class ServedModel:
    """A model that a server offers.

    Attributes:
        limit: its context window, in tokens; None where the server doesn't tell.
        owner: what the server calls the model's owner, which tells what kind of server it is.
    """

    name: str
    limit: int | None
    owner: str

    @property
    def is_llama_server(self) -> bool:
        return self.owner == "llamacpp"

    @property
    def is_llama_cpp(self) -> bool:
        return self.owner in ("llamacpp", "me")

    @property
    def breaks_off(self) -> bool:
        """llama-cpp-python breaks an answer off when any other request comes."""
        return self.owner == "me"


@dataclass
class Tally:
    """What a server tells of an answer beside its text; None is what it doesn't tell."""

    finish: str | None = None
    prompt_tokens: int | None = None
    cached_tokens: int | None = None
    completion_tokens: int | None = None
    reasoning_tokens: int | None = None
    prefill_seconds: float | None = None
    progress: tuple[int, int] | None = field(default=None)  # of the prompt: tokens done, all


class OpenAIServer:
    """Requests to one server: EngineLostError when it can't be reached, RemoteEngineError when it refuses."""

    def __init__(self, url: str, token: str | None) -> None:
        """`url` has no `/v1` at its end."""
        self.url = url
        options = http_options(url, token)
        self._http = httpx.AsyncClient(timeout=httpx.Timeout(None, connect=_CONNECT_SECONDS), **options)
        self._counting = httpx.Client(timeout=httpx.Timeout(_COUNT_SECONDS, connect=_CONNECT_SECONDS), **options)

    async def close(self) -> None:
        await self._http.aclose()
        self._counting.close()

    async def find_model(self, wanted: str | None) -> ServedModel:
        """The wanted model, else the first one."""
        listed = await self._ask("GET", "/v1/models")
        models = [entry for entry in _dicts(listed, "data") if isinstance(entry.get("id"), str)]
        names = [model["id"] for model in models]
        chosen = next((model for model in models if wanted in (None, model["id"], *_aliases(model))), None)
        if chosen is None:
            message = f"{self.url} serves {', '.join(names) or 'nothing'}, not {wanted or 'a model'}"
            raise RemoteEngineError(ModelNotFoundError.code, message, {"served": names})
        owner = str(chosen.get("owned_by") or "")
        return ServedModel(chosen["id"], await self._limit(chosen, owner), owner)

    async def _limit(self, model: dict[str, Any], owner: str) -> int | None:
        """vLLM and SGLang tell it with the model; llama-server with its slots, which may share the model's window."""
        if isinstance(limit := model.get("max_model_len"), int):
            return limit
        if owner != "llamacpp":
            return None
        try:
            props = await self._ask("GET", "/props")
            return int(props["default_generation_settings"]["n_ctx"])
        except (RemoteEngineError, KeyError, TypeError, ValueError):
            return None

    async def is_alive(self) -> bool:
        """Whether anything answers; asks for nothing that could disturb an answer."""
        try:
            await self._http.get("/health", timeout=_CONNECT_SECONDS)
        except httpx.TransportError:
            return False
        return True

    def token_counter(self, model: ServedModel) -> Callable[[str], int] | None:
        """Blocking: asks the server how many tokens a text has. None where it doesn't say."""
        if model.breaks_off:
            return None

        def count(text: str) -> int:
            with self._typed_errors():
                body: dict[str, Any] = {"model": model.name}
                body |= {"content": text, "add_special": False}  # llama-server's names
                body |= {"prompt": text, "add_special_tokens": False}  # vLLM's and SGLang's
                response = self._counting.post("/tokenize", json=body)
                _raise_for_error(response, self.url)
                counted = response.json()
                return int(counted["count"]) if "count" in counted else len(counted["tokens"])

        try:
            count("one two")
        except RemoteEngineError:
            return None
        return count

    async def render(self, messages: list[Message], model: ServedModel) -> str:
        """The prompt as the model sees it, where the server shows that; else what is said, below the roles' names."""
        if model.is_llama_server:
            return str((await self._ask("POST", "/apply-template", {"messages": messages}))["prompt"])
        return "\n".join(f"[{message['role']}]\n{message['content']}" for message in messages)

    async def complete(self, body: dict[str, Any]) -> AsyncGenerator[AnswerPiece | Tally, None]:
        """The pieces of an answer, and what is known beside them so far whenever the server tells more."""
        tally = Tally()
        asked = body | {"stream": True, "stream_options": {"include_usage": True}}
        async with self._stream("/v1/chat/completions", asked) as response:
            async for event in read_events(response.aiter_bytes()):
                if event.data == "[DONE]":
                    break
                chunk = json.loads(event.data)
                if "error" in chunk:
                    raise refusal(int(_code(chunk) or 500), chunk, self.url)
                for piece in _pieces(chunk):
                    yield piece
                if _note(chunk, tally):
                    yield tally
        if tally.finish is None:
            raise EngineLostError(f"{self.url} broke off in the middle of the answer")

    # -- transport -------------------------------------------------------------------------------------------------

    async def _ask(self, method: str, path: str, body: Any = None) -> Any:
        with self._typed_errors():
            response = await self._http.request(method, path, json=body, timeout=_COUNT_SECONDS)
            _raise_for_error(response, self.url)
            return response.json()

    @asynccontextmanager
    async def _stream(self, path: str, body: Any) -> AsyncIterator[httpx.Response]:
        with self._typed_errors():
            async with self._http.stream("POST", path, json=body) as response:
                if response.status_code >= 400:
                    await response.aread()
                    _raise_for_error(response, self.url)
                yield response

    @contextmanager
    def _typed_errors(self) -> Iterator[None]:
        if self._http.is_closed:
            raise EngineLostError(f"the connection to {self.url} was closed")
        try:
            yield
        except httpx.TransportError as error:
            raise EngineLostError(f"can't reach {self.url}: {error or type(error).__name__}") from error
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            message = f"{self.url} sent what this version does not understand: {error!r}"
            raise RemoteEngineError("engine_incompatible", message) from error


def http_options(url: str, token: str | None) -> dict[str, Any]:
    """For a client of this server. Proxies of the environment never see loopback traffic."""
    loopback = httpx.URL(url).host in ("127.0.0.1", "localhost", "::1")
    headers = {} if token is None else {"Authorization": f"Bearer {token}"}
    return {"base_url": url, "headers": headers, "trust_env": not loopback}


def _raise_for_error(response: httpx.Response, where: str) -> None:
    if response.status_code < 400:
        return
    try:
        body = response.json()
    except ValueError:
        body = response.text
    raise refusal(response.status_code, body, where)


def _code(chunk: dict[str, Any]) -> Any:
    error = chunk["error"]
    code = error.get("code") if isinstance(error, dict) else None
    return code if isinstance(code, int) else None


def _dicts(value: Any, key: str) -> list[dict[str, Any]]:
    found = value.get(key) if isinstance(value, dict) else None
    return [item for item in found if isinstance(item, dict)] if isinstance(found, list) else []


def _aliases(model: dict[str, Any]) -> tuple[str, ...]:
    aliases = model.get("aliases")
    return tuple(map(str, aliases)) if isinstance(aliases, list) else ()


def _pieces(chunk: dict[str, Any]) -> Iterator[AnswerPiece]:
    for choice in _dicts(chunk, "choices"):
        delta = choice.get("delta") or {}
        seen = set[DeltaKind]()  # a server may give the same thoughts under both names
        for name, kind in _DELTA_FIELDS.items():
            if delta.get(name) and kind not in seen:
                seen.add(kind)
                yield AnswerPiece(delta[name], kind)


def _note(chunk: dict[str, Any], tally: Tally) -> bool:
    """Takes what a chunk tells beside text; True if it tells anything."""
    before = Tally(**vars(tally))
    for choice in _dicts(chunk, "choices"):
        tally.finish = choice.get("finish_reason") or tally.finish
    usage, timings, progress = (chunk.get(name) or {} for name in ("usage", "timings", "prompt_progress"))
    prompt, completion = (usage.get(f"{name}_tokens_details") or {} for name in ("prompt", "completion"))
    told = {
        "prompt_tokens": usage.get("prompt_tokens"),
        "completion_tokens": usage.get("completion_tokens"),
        "cached_tokens": prompt.get("cached_tokens", timings.get("cache_n")),
        "reasoning_tokens": completion.get("reasoning_tokens"),
        "prefill_seconds": timings["prompt_ms"] / 1000 if "prompt_ms" in timings else None,
        "progress": (progress["processed"], progress["total"]) if progress else None,
    }
    for name, value in told.items():
        if value is not None:
            setattr(tally, name, value)
    return tally != before

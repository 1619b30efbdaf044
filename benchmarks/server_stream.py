"""A streamed answer of OpenAI's chat API: when its first text came, and what the server says of the prompt.

Knows the stream's lines, and of engines what they add to it; nothing of how they are reached.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import httpx


@dataclass(frozen=True)
class Reply:
    """One answer.

    Attributes:
        seconds: from the request to the first text, or to the end where none came.
        prompt, reused: tokens of the prompt, and of these such whose KV was there; None where the server doesn't tell.
        fidelity: how many files were used at which fidelity, where the server has such.
    """

    seconds: float
    text: str
    prompt: int | None = None
    reused: int | None = None
    fidelity: dict[str, int] = field(default_factory=dict)


def ask(http: httpx.Client, body: dict[str, Any]) -> Reply:
    """Ask for a chat completion.

    Raises:
        ValueError: the server refused, or broke off.
    """
    request = {**body, "temperature": 0, "stream": True, "stream_options": {"include_usage": True}}
    began = time.perf_counter()
    with http.stream("POST", "/v1/chat/completions", json=request) as response:
        if response.is_error:
            raise ValueError(f"{response.url} says {response.status_code}: {response.read().decode()[:300]}")
        return read(response.iter_lines(), lambda: time.perf_counter() - began)


def read(lines: Iterable[str], clock: Callable[[], float]) -> Reply:
    """What a stream's lines come to; `clock` tells the seconds since the request.

    Raises:
        ValueError: it ends with an error.
    """
    first: float | None = None
    texts, told = list[str](), dict[str, Any]()
    for line in lines:
        if not line.startswith("data: {"):
            continue
        event = json.loads(line.removeprefix("data: "))
        if "error" in event:
            raise ValueError(f"the answer broke off: {event['error']}")
        text = "".join(choice.get("delta", {}).get("content") or "" for choice in event.get("choices", ()))
        if text and first is None:
            first = clock()
        texts.append(text)
        told |= {name: event[name] for name in ("usage", "ctx") if event.get(name)}
    return Reply(clock() if first is None else first, "".join(texts), *_tokens(told), _fidelity(told))


def _tokens(told: dict[str, Any]) -> tuple[int | None, int | None]:
    usage = told.get("usage", {})
    return usage.get("prompt_tokens"), (usage.get("prompt_tokens_details") or {}).get("cached_tokens")


def _fidelity(told: dict[str, Any]) -> dict[str, int]:
    labels = [chunk["fidelity"] for chunk in told.get("ctx", {}).get("chunks", ())]
    return {label: labels.count(label) for label in dict.fromkeys(labels)}

"""Answers in the OpenAI format: whole completions, chunks, usage. Pure functions of engine values to JSON objects.

What OpenAI has no words for is in two extensions: `reasoning_content`, what the model thought, and `ctx`: fidelity per
chunk, tokens reused, timing.
"""

from __future__ import annotations

import secrets
import time
from dataclasses import asdict, dataclass, field
from typing import Any

from engine.errors import EngineError
from engine.serve.errors import AnswerCancelledError
from engine.types import ChatDelta, ChatDone, Usage

_REASONING = "reasoning_content"
"""Not OpenAI's, but what other servers of thinking models call it, and their clients read."""


@dataclass(frozen=True)
class Envelope:
    """What all chunks of one answer share."""

    model: str
    id: str = field(default_factory=lambda: f"chatcmpl-{secrets.token_hex(12)}")
    created: int = field(default_factory=lambda: int(time.time()))

    def completion(self, done: ChatDone) -> dict[str, Any]:
        """The whole answer. Raises AnswerCancelledError."""
        message = {"role": "assistant", "content": done.text, "refusal": None}
        if done.reasoning:
            message[_REASONING] = done.reasoning
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": finish_reason(done)}
        return self._object("chat.completion", [choice]) | {"usage": usage(done.usage), "ctx": details(done)}

    def opening(self) -> dict[str, Any]:
        """The first chunk, which names the role."""
        return self._chunk({"role": "assistant", "content": ""}, None)

    def delta(self, delta: ChatDelta) -> dict[str, Any]:
        return self._chunk({"content" if delta.kind == "answer" else _REASONING: delta.text}, None)

    def closing(self, done: ChatDone, *, include_usage: bool) -> list[dict[str, Any]]:
        """The chunk with the finish reason, then the one with usage if it was asked for; the last carries `ctx`.

        Raises AnswerCancelledError.
        """
        chunks = [self._chunk({}, finish_reason(done))]
        if include_usage:
            chunks.append(self._object("chat.completion.chunk", []) | {"usage": usage(done.usage)})
        chunks[-1]["ctx"] = details(done)
        return chunks

    def _chunk(self, delta: dict[str, Any], finish: str | None) -> dict[str, Any]:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
        return self._object("chat.completion.chunk", [choice])

    def _object(self, kind: str, choices: list[dict[str, Any]]) -> dict[str, Any]:
        return {"id": self.id, "object": kind, "created": self.created, "model": self.model, "choices": choices}


def usage(counts: Usage) -> dict[str, Any]:
    """OpenAI's usage; reused tokens are its cached ones."""
    return {
        "prompt_tokens": counts.prompt_tokens,
        "completion_tokens": counts.completion_tokens,
        "total_tokens": counts.prompt_tokens + counts.completion_tokens,
        "prompt_tokens_details": {"cached_tokens": counts.reused_tokens},
        "completion_tokens_details": {"reasoning_tokens": counts.reasoning_tokens},
    }


def details(done: ChatDone) -> dict[str, Any]:
    """`ChatDone` without its texts."""
    fields = asdict(done)
    del fields["text"], fields["reasoning"]
    return fields


def finish_reason(done: ChatDone) -> str:
    """OpenAI's word. It has none for an answer that somebody else cancelled: AnswerCancelledError."""
    if done.stop_reason == "cancelled":
        raise AnswerCancelledError("the answer was cancelled before it was complete", text=done.text)
    return done.stop_reason


def models(name: str, created: int) -> dict[str, Any]:
    """The list of the one model that is served."""
    return {"object": "list", "data": [{"id": name, "object": "model", "created": created, "owned_by": "ctx-engine"}]}


def no_answer() -> EngineError:
    """For an answer that ended without its last event."""
    return EngineError("the engine ended the answer without saying why")

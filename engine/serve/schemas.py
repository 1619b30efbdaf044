"""The bodies of requests: what is accepted, and the sentence a caller gets for what isn't.

Own routes refuse unknown fields. The OpenAI route ignores fields it doesn't know, and refuses the known ones that
would change the answer in a way this engine can't. Knows nothing of how a request is carried out.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, field_validator, model_validator

from engine.config import Fidelity, Order, SamplingParams
from engine.types import Message


def _encodable(text: str) -> str:
    """JSON can spell half a character (a lone surrogate), which has no UTF-8 and so no hash."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError("must be valid Unicode: it holds a lone surrogate") from None
    return text


Text = Annotated[str, AfterValidator(_encodable)]
Name = Annotated[Text, Field(min_length=1)]
Refs = Annotated[list[Name], Field(min_length=1)]
Tags = Annotated[list[Name], Field(min_length=1)]
Milliseconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]

_ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}


def _role(value: Any) -> str:
    if not isinstance(value, str) or value not in _ROLES:
        raise ValueError(f"must be system, user or assistant, not {value!r}")
    return _ROLES[value]


def _content(value: Any) -> str:
    """A string, or OpenAI's list of text parts."""
    if isinstance(value, str):
        return value
    if not isinstance(value, list):
        raise ValueError("must be a string, or a list of parts of type text")
    for part in value:
        is_text = isinstance(part, dict) and part.get("type") == "text" and isinstance(part.get("text"), str)
        if not is_text:
            raise ValueError("only parts of type text are supported")
    return "".join(part["text"] for part in value)


class ChatMessage(BaseModel):
    """One turn; further fields of OpenAI's messages (name, refusal, …) carry nothing for this engine."""

    model_config = ConfigDict(strict=True, extra="ignore")
    role: Annotated[str, BeforeValidator(_role)]
    content: Annotated[Text, BeforeValidator(_content)]


def _as_messages(messages: list[ChatMessage]) -> list[Message]:
    return [Message(role=message.role, content=message.content) for message in messages]


class StreamOptions(BaseModel):
    model_config = ConfigDict(strict=True, extra="ignore")
    include_usage: bool = False


def _stop(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


# What these fields may be without asking for something that this engine doesn't do.
_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "n": (1,),
    "presence_penalty": (0,),
    "frequency_penalty": (0,),
    "logit_bias": ({},),
    "logprobs": (False,),
    "top_logprobs": (0,),
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "functions": ([],),
    "function_call": ("none", "auto"),
    "response_format": ({"type": "text"},),
    "modalities": (["text"],),
    "audio": (),
    "prediction": (),
    "web_search_options": (),
}


class ChatRequest(BaseModel):
    """POST /v1/chat/completions. A field that is null counts as left out."""

    model_config = ConfigDict(strict=True, extra="allow", allow_inf_nan=False)
    messages: Annotated[list[ChatMessage], Field(min_length=1)]
    model: str | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    stop: Annotated[list[Text] | None, BeforeValidator(_stop)] = None
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None
    context: Name | None = None
    fidelity: Fidelity | None = None
    latency_budget_ms: Milliseconds | None = None
    tags: list[Name] | None = None

    @model_validator(mode="after")
    def _only_what_is_supported(self) -> ChatRequest:
        for name, value in (self.model_extra or {}).items():
            if name in _NEUTRAL and value is not None and value not in _NEUTRAL[name]:
                raise ValueError(f"{name} is not supported by this engine; leave it out")
        if self.tags and self.context is None:
            raise ValueError("tags name the answer's chunk in a context; give context too")
        return self

    def budget(self) -> float | None:
        """Seconds; None for the engine's own."""
        return _seconds(self.latency_budget_ms)

    def ignored(self) -> list[str]:
        """Names of fields that are neither supported nor known to be harmless."""
        return sorted(name for name in self.model_extra or {} if name not in _NEUTRAL)

    def conversation(self) -> list[Message]:
        return _as_messages(self.messages)

    def sampling(self) -> SamplingParams:
        """Raises InvalidRequestError for values out of range."""
        names = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty", "seed")
        given = {name: getattr(self, name) for name in names if getattr(self, name) is not None}
        most = self.max_tokens if self.max_completion_tokens is None else self.max_completion_tokens
        return SamplingParams(max_tokens=most, stop=tuple(self.stop or ()), **given)


def _seconds(milliseconds: float | None) -> float | None:
    return None if milliseconds is None else milliseconds / 1000


class Body(BaseModel):
    """Base of this engine's own bodies: unknown fields are mistakes."""

    model_config = ConfigDict(strict=True, extra="forbid")


class ContextBody(Body):
    instructions: Text | None = None
    order: Order | None = None


class ChunkBody(Body):
    text: Text
    source: Name | None = None
    kind: Literal["file", "selection", "output"] = "file"
    tags: list[Name] = []
    active: bool = True


class RefsBody(Body):
    refs: Refs


class OptionalRefsBody(Body):
    refs: Refs | None = None


class MoveBody(Body):
    ref: Name
    position: Annotated[int, Field(ge=0)]


class ComposeBody(Body):
    refs: Refs
    name: Name


class TagBody(Body):
    ref: Name
    tags: Tags


class SourceBody(Body):
    source: Name


class ClearBody(Body):
    scope: Literal["all", "outputs"] = "all"


class PlanBody(Body):
    """`messages` is a conversation, or just the question's text."""

    messages: Annotated[list[ChatMessage], Field(min_length=1)]
    fidelity: Fidelity = "auto"
    latency_budget_ms: Milliseconds | None = None

    @field_validator("messages", mode="before")
    @classmethod
    def _question(cls, value: Any) -> Any:
        return [{"role": "user", "content": value}] if isinstance(value, str) else value

    def conversation(self) -> list[Message]:
        return _as_messages(self.messages)

    def budget(self) -> float | None:
        """Seconds; None for the engine's own."""
        return _seconds(self.latency_budget_ms)

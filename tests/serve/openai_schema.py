"""The published OpenAI schema of chat completions as strict models: required fields, closed value sets, no extras.

Written from OpenAI's API reference (`CreateChatCompletionResponse`, `CreateChatCompletionStreamResponse`). Of the
extensions the tests take `ctx` off before they validate; `reasoning_content` is named as one here.
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict

FinishReason = Literal["stop", "length", "tool_calls", "content_filter", "function_call"]


class _Closed(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid")


class PromptDetails(_Closed):
    cached_tokens: int


class CompletionDetails(_Closed):
    reasoning_tokens: int


class CompletionUsage(_Closed):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptDetails
    completion_tokens_details: CompletionDetails


class ResponseMessage(_Closed):
    role: Literal["assistant"]
    content: str | None
    refusal: str | None
    reasoning_content: str | None = None  # an extension; only where a model has thought


class Choice(_Closed):
    index: int
    message: ResponseMessage
    logprobs: None
    finish_reason: FinishReason


class ChatCompletion(_Closed):
    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    choices: list[Choice]
    usage: CompletionUsage


class Delta(_Closed):
    role: Literal["assistant"] | None = None
    content: str | None = None
    reasoning_content: str | None = None  # the same


class ChunkChoice(_Closed):
    index: int
    delta: Delta
    logprobs: None
    finish_reason: FinishReason | None


class ChatCompletionChunk(_Closed):
    id: str
    object: Literal["chat.completion.chunk"]
    created: int
    model: str
    choices: list[ChunkChoice]
    usage: CompletionUsage | None = None


class Model(_Closed):
    id: str
    object: Literal["model"]
    created: int
    owned_by: str


class ModelList(_Closed):
    object: Literal["list"]
    data: list[Model]

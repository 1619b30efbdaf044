"""The published OpenAI schema of chat completions as strict models: required fields, closed value sets, no extras.

Written from OpenAI's API reference (`CreateChatCompletionResponse`, `CreateChatCompletionStreamResponse`). The one
extension, `ctx`, is taken off by the tests before they validate.
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict

FinishReason = Literal["stop", "length", "tool_calls", "content_filter", "function_call"]


class _Closed(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid")


class PromptDetails(_Closed):
    cached_tokens: int


class CompletionUsage(_Closed):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptDetails


class ResponseMessage(_Closed):
    role: Literal["assistant"]
    content: str | None
    refusal: str | None


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

"""Asking a server of OpenAI's API: what of a prompt it has computed, and what is learnt from how it answers.

Knows prompts and answers; when something is asked is decided elsewhere.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from typing import Any

from ctx_lsp.engines.client import AnswerPiece, RemoteEngineError
from ctx_lsp.engines.context_book import ContextBook
from ctx_lsp.engines.openai_answer import Answer
from ctx_lsp.engines.openai_errors import refuses_system
from ctx_lsp.engines.openai_prompt import Prompt
from ctx_lsp.engines.openai_server import OpenAIServer, ServedModel, Tally
from ctx_lsp.engines.token_counter import TokenCounter
from engine.types import Message

OnProgress = Callable[[int, int], None]
"""Takes the tokens of a prompt that are computed, and all of them."""


class Asking:
    """The way to one model of a server.

    Attributes:
        speed: tokens of a prompt that it computes in a second, as far as that is known.
        in_system: whether its chat template takes a system message, as far as is known.
    """

    def __init__(self, server: OpenAIServer, model: ServedModel, counter: TokenCounter) -> None:
        self.model = model
        self.counter = counter
        self.speed: float | None = None
        self.in_system = True
        self._server = server

    def prompt(self, book: ContextBook, messages: Sequence[Message] = ()) -> Prompt:
        """Blocking."""
        return book.prompt(messages, self.in_system)

    async def ask(
        self, book: ContextBook, answer: Answer, sampling: dict[str, Any], on_progress: OnProgress
    ) -> AsyncGenerator[AnswerPiece, None]:
        """Sends the answer's prompt and fills the answer, and keeps account of what the server has computed."""
        prompt, computed = answer.prompt, False
        body = {"model": self.model.name, "messages": list(prompt.messages), **self._fields(sampling)}
        try:
            async with aclosing(self._server.complete(body)) as stream:
                async for item in stream:
                    answer.take(item)
                    if not computed and (computed := _has_read_all(item)):
                        book.saw(prompt, "")
                        on_progress(prompt.tokens, prompt.tokens)
                    if isinstance(item, AnswerPiece):
                        yield item
                    elif item.progress is not None and not computed:
                        on_progress(*prompt.scaled(*item.progress))
            self._learn(answer)
        except RemoteEngineError:
            raise  # a prompt that was refused was not computed
        except BaseException:
            if not computed:
                book.broke_off(prompt)
            raise
        finally:
            if computed:
                book.saw(prompt, answer.text)

    def learn_layout(self, error: RemoteEngineError) -> bool:
        """Whether the model turns out to take no system message, so that the same must be asked without."""
        learnt = self.in_system and refuses_system(error)
        self.in_system = self.in_system and not learnt
        return learnt

    def _learn(self, answer: Answer) -> None:
        self.speed = answer.speed() or self.speed
        self.counter.learn(answer.prompt.content, answer.usage.prompt_tokens)

    def _fields(self, sampling: dict[str, Any]) -> dict[str, Any]:
        """Greedy unless it is asked for otherwise. llama.cpp has a name of its own for one of them."""
        theirs = {"repetition_penalty": "repeat_penalty"} if self.model.is_llama_cpp else {}
        fields = {"temperature": 0.0} | {theirs.get(name, name): value for name, value in sampling.items()}
        return fields | ({"return_progress": True} if self.model.is_llama_server else {})


def _has_read_all(item: AnswerPiece | Tally) -> bool:
    """Whether the server has computed the whole prompt: it answers, or says so."""
    if isinstance(item, AnswerPiece) or item.finish is not None:
        return True
    return item.progress is not None and item.progress[0] >= item.progress[1]

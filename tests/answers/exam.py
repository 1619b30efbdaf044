"""Asks every question twice: the engine over its warm files, and transformers over the same prompt."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from engine import Engine, SamplingParams
from engine.context import Context
from engine.types import ChatDone
from tests.answers.matching import Expected
from tests.answers.questions import Question, Workspace
from tests.answers.sources import read_files
from tests.answers.transformers_answers import TransformersAnswers

MAX_TOKENS = 64


@dataclass(frozen=True)
class Result:
    """One question's two answers. `file_tokens`: length of the files in the prompt."""

    workspace: str
    question: str
    expected: Expected
    done: ChatDone
    transformers: str
    file_tokens: int

    @property
    def engine_right(self) -> bool:
        return self.expected.met_by(self.done.text)

    @property
    def transformers_right(self) -> bool:
        return self.expected.met_by(self.transformers)


class Exam:
    """Results by workspace; each workspace is asked once, when it is first wanted.

    `folder` keeps the wheels. Both sides are greedy and compute in float32 on the CPU.
    """

    def __init__(self, engine: Engine, reference: TransformersAnswers, folder: Path) -> None:
        self._engine = engine
        self._reference = reference
        self._folder = folder
        self._results: dict[str, list[Result]] = {}

    @property
    def all_results(self) -> list[Result]:
        """What has been asked so far."""
        return [result for results in self._results.values() for result in results]

    def results(self, workspace: Workspace) -> list[Result]:
        """A result for each question, in the order in which they were asked."""
        if workspace.name not in self._results:
            self._results[workspace.name] = self._ask_all(workspace)
        return self._results[workspace.name]

    def _ask_all(self, workspace: Workspace) -> list[Result]:
        files = read_files(workspace.wheel, workspace.files, self._folder)
        context = self._engine.context(workspace.name)
        for source, text in files.items():
            context.add_chunk(text, source=source)
        file_tokens = sum(chunk.tokens for chunk in context.chunks())
        prompts = [context.prompt_tokens(question.text) for question in workspace.questions]
        done = [_ask(context, question) for question in workspace.questions]
        self._engine.drop_context(workspace.name)
        return [
            Result(workspace.name, question.text, _expected(question, files), answer, other, file_tokens)
            for question, answer, other in zip(
                workspace.questions, done, self._reference.answers(prompts, MAX_TOKENS), strict=True
            )
        ]


def _expected(question: Question, files: Mapping[str, str]) -> Expected:
    return question.fact(files)


def _ask(context: Context, question: Question) -> ChatDone:
    *_, done = context.chat(question.text, SamplingParams(max_tokens=MAX_TOKENS))
    assert isinstance(done, ChatDone)
    return done

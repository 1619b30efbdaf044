"""Contexts of so many tokens, cut from real files, in one chunk or many, in place or moved; and an answer, timed.

Everything through the engine's public face.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count, pairwise
from statistics import median

from benchmarks.corpus import STANDARD_LIBRARY, SourceFile, find_files
from engine import Engine, SamplingParams
from engine.chat_stream import ChatStream
from engine.config import Fidelity
from engine.context import Context
from engine.tokenizer import Tokenizer
from engine.types import ChatDone, ChatEvent

CHUNKS = 32
DROPPED = 8
_FRAME = 24
"""Tokens of a chunk's frame, roughly."""
_AROUND = 40
"""Tokens of head and question, roughly."""
QUESTION = "Which of these functions would you test first, and how?"


def all_files() -> list[SourceFile]:
    """The files that contexts are cut from."""
    return find_files((), len(STANDARD_LIBRARY))


class Texts:
    """Cuts texts of so many tokens from files. No two are the same, so none finds another's KV."""

    def __init__(self, tokenizer: Tokenizer, files: Sequence[SourceFile]) -> None:
        self.tokenizer = tokenizer
        self._ids = [token for file in files for token in tokenizer.encode(file.text, special=False)]
        self._next = 0
        self._number = count()

    def cut(self, tokens: int) -> str:
        """About `tokens` tokens, a chunk's frame included."""
        wanted = max(1, tokens - _FRAME)
        if wanted > len(self._ids):
            raise ValueError(f"the files have {len(self._ids)} tokens, {wanted} are needed")
        if self._next + wanted > len(self._ids):
            self._next = 0
        cut = self._ids[self._next : self._next + wanted]
        self._next += wanted
        return f"# {next(self._number)}\n{self.tokenizer.decode(cut)}"

    def ids(self, tokens: int) -> list[int]:
        """As many token ids, from the beginning."""
        return (self._ids * -(-tokens // len(self._ids)))[:tokens]


def open_chunks(context: Context, texts: Texts, tokens: int, chunks: int) -> None:
    """Add so many chunks that make a prompt of `tokens` tokens, with the question."""
    for number in range(chunks):
        context.add_chunk(texts.cut((tokens - _AROUND) // chunks), source=f"part_{number}.py")


def open_filtered(context: Context, texts: Texts, tokens: int, chunks: int, dropped: int) -> None:
    """So many active chunks that make such a prompt, warm, out of their first order and among dropped ones."""
    of_all = chunks + dropped
    open_chunks(context, texts, tokens * of_all // chunks, of_all)
    warm(context)
    apart = of_all // dropped
    context.deactivate(*(f"part_{number * apart}.py" for number in range(dropped)))
    for number in range(of_all - 1, 0, -apart):
        context.move(f"part_{number}.py", 0)


def warm(context: Context) -> None:
    """Compute whatever the context lacks."""
    context.populate()
    context.wait_populated()


@dataclass(frozen=True)
class Timed:
    """An answer.

    Attributes:
        first: seconds from the question to the first event of the answer.
        gap: median seconds between pieces of text; nearly every token is one.
        mean: seconds per token after the first.
    """

    first: float
    gap: float
    mean: float
    done: ChatDone


def ask(context: Context, tokens: int, fidelity: Fidelity, question: str = QUESTION, answers: int = 1) -> Timed:
    """Answer greedily with `tokens` tokens, so many times at once; what comes back is the first's.

    Raises:
        ValueError: it ended too early to be timed.
    """
    params = SamplingParams(max_tokens=tokens)
    asked = time.perf_counter()
    streams = [context.chat(question, params, fidelity=fidelity) for _ in range(answers)]
    arrivals, done = _read(streams[0])
    for stream in streams[1:]:
        _read(stream)
    speed = done.timing.tokens_per_second
    if tokens > 1 and (len(arrivals) < 4 or not speed):
        raise ValueError(f"the answer ended after {done.usage.completion_tokens} tokens")
    # the last piece comes together with the end
    gaps = [later - earlier for earlier, later in pairwise(arrivals[:-1])]
    return Timed(arrivals[0] - asked, median(gaps) if gaps else 0.0, 1 / speed if speed else 0.0, done)


def _read(stream: ChatStream) -> tuple[list[float], ChatDone]:
    """When each event came, on the performance counter, and the last event."""
    arrivals, events = list[float](), list[ChatEvent]()
    for event in stream:
        arrivals.append(time.perf_counter())
        events.append(event)
    last = events[-1]
    assert isinstance(last, ChatDone)
    return arrivals, last


def fresh_contexts(engine: Engine) -> Iterator[Context]:
    """One empty context after another; each is dropped when the next is taken."""
    for number in count():
        context = engine.context(f"context-{number}", order="fixed")
        yield context
        engine.drop_context(context.id)

"""The values that cross the engine's facade: chunk states, plans, chat events.

Frozen, JSON-ready through `dataclasses.asdict`; nothing here knows tensors, HTTP or LSP. The field names are the
ones used on every wire (LSP turns them into camelCase).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Literal, TypedDict


class FidelityLabel(StrEnum):
    """How a segment's KV relates to what a cold run would compute."""

    EXACT = "exact"
    NEAR = "near"
    ANCHORED = "anchored"
    COLD = "cold"


class ChunkKind(StrEnum):
    FILE = "file"
    SELECTION = "selection"
    OUTPUT = "output"
    COMPOSITION = "composition"


class Message(TypedDict):
    """One turn of a conversation: role is ``system``, ``user`` or ``assistant``."""

    role: str
    content: str


@dataclass(frozen=True)
class ChunkInfo:
    """What a caller sees of a chunk.

    Attributes:
        hash: SHA-256 of the text, 64 hex digits.
        name: shown to people: the first source, or the name it was composed under.
        sources: where the text comes from, e.g. paths relative to the workspace.
        parts: hashes of the chunks a composition is made of, else empty.
        tokens: length of its piece of the prompt, frame included.
        warm_tokens: tokens of it whose KV could be used by a question asked now.
        fidelity: of that KV for the composition as it is now (an inactive chunk: as if it were appended).
        pinned: it keeps its place in the order when it is edited.
    """

    hash: str
    kind: ChunkKind
    name: str
    sources: tuple[str, ...]
    tags: tuple[str, ...]
    parts: tuple[str, ...]
    active: bool
    tokens: int
    warm_tokens: int
    fidelity: FidelityLabel
    pinned: bool


@dataclass(frozen=True)
class ChunkPlan:
    """One chunk's share of a plan; `reused` + `prefill` = `tokens`."""

    hash: str
    name: str
    tokens: int
    reused: int
    prefill: int
    fidelity: FidelityLabel


@dataclass(frozen=True)
class Plan:
    """What a question would cost if it were asked now. All counts are tokens; `chunks` in prompt order.

    `fidelity` per chunk is the state of its KV before any work; `reused` and `prefill` include head and tail.

    Attributes:
        mode: how the question would be answered: `auto` decides between the two.
        time_to_first_token: predicted seconds, or None before anything was measured on this device.
    """

    tokens: int
    reused: int
    prefill: int
    limit: int
    chunks: tuple[ChunkPlan, ...]
    mode: Literal["exact", "instant"]
    time_to_first_token: float | None


@dataclass(frozen=True)
class PopulateProgress:
    """How far prefill of a context's chunks has come, in the background or for a question: tokens, head included.

    `phase` is ``populate`` while chunks still lack KV, and ``refine`` while near KV is replaced by exact. 0 of 0 when
    it was stopped.
    """

    context: str
    done: int
    total: int
    phase: Literal["populate", "refine"] = "populate"


@dataclass(frozen=True)
class PopulateFailed:
    """Background prefill of a context has ended early; `code` and `message` are the error's."""

    context: str
    code: str
    message: str


@dataclass(frozen=True)
class Usage:
    """Tokens of one answer: `prompt_tokens` = `reused_tokens` + `prefilled_tokens`.

    `completion_tokens` are all that were generated, the `reasoning_tokens` of what the model thought among them.
    """

    prompt_tokens: int
    reused_tokens: int
    prefilled_tokens: int
    completion_tokens: int
    reasoning_tokens: int = 0


@dataclass(frozen=True)
class Timing:
    """Seconds on the engine's clock: waiting in the queue, first token after the question came, whole answer."""

    queued: float
    time_to_first_token: float
    total: float
    tokens_per_second: float


StopReason = Literal["stop", "length", "cancelled"]


@dataclass(frozen=True)
class ChatDelta:
    """A piece of the answer's text; never half a character, never part of a stop string.

    `kind` tells what the model says from what it thinks before it speaks.
    """

    text: str
    kind: Literal["answer", "reasoning"] = "answer"


@dataclass(frozen=True)
class ChatDone:
    """The last event of every answer that did not raise.

    Attributes:
        stop_reason: ``stop`` (end of turn or stop string), ``length`` (max_tokens or window), ``cancelled``.
        text: the whole answer, without what the model thought before it.
        reasoning: what it thought; empty for models that don't.
        chunks: the chunks the answer saw, with the fidelity each one was *used* at.
        output: hash of the output chunk that holds the answer, or None (no context, or an empty answer).
    """

    stop_reason: StopReason
    text: str
    usage: Usage
    timing: Timing
    chunks: tuple[ChunkPlan, ...]
    output: str | None
    reasoning: str = ""


ChatEvent = ChatDelta | ChatDone


@dataclass(frozen=True)
class ChunksChanged:
    """Something about the chunks of `context` changed (set, order, activity, or warmth); ask for the list anew."""

    context: str


EngineEvent = ChunksChanged | PopulateProgress | PopulateFailed

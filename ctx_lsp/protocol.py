"""Everything that crosses the wire between an editor and ctx-lsp beyond standard LSP: method names and their types.

Field names are snake_case here and camelCase on the wire (`wire.py` translates). Documented in docs/protocol.md, which
a test compares with this file. Knows nothing of pygls, HTTP or the engine.
"""

from __future__ import annotations

from typing import Any, Literal

from attrs import frozen

VERSION = 1
"""Advertised as `capabilities.experimental.ctx.version`; grows with every incompatible change."""

EXPERIMENTAL = {"ctx": {"version": VERSION, "slash": True}}

INVALID_PARAMS = -32602
REQUEST_FAILED = -32803
REQUEST_CANCELLED = -32800

DEFAULT_CONVERSATION = "default"

Fidelity = Literal["exact", "auto", "instant"]
FidelityLabel = Literal["exact", "near", "anchored", "cold"]
ChunkKind = Literal["file", "selection", "output", "composition"]
StopReason = Literal["stop", "length", "cancelled"]
ServerState = Literal["starting", "loading", "ready", "failed", "stopped"]
ClearScope = Literal["all", "outputs", "conversation"]
DocumentMode = Literal["open", "manual"]
Order = Literal["recency", "fixed"]
DeltaKind = Literal["answer", "reasoning"]
ApplyHow = Literal["exact", "fuzzy", "create"]
PlanMode = Literal["exact", "instant"]
PopulatePhase = Literal["populate", "refine"]
Origin = Literal["user", "automatic"]
LogLevel = Literal["error", "warning", "info", "debug"]


@frozen(kw_only=True)
class FileOptions:
    """Which of the workspace's files are loaded by themselves: globs, relative to each workspace folder."""

    max_tokens: int = 6000  # at most so many tokens of them; 0 loads none
    include: tuple[str, ...] = ()  # only files that match one of these; none means all
    exclude: tuple[str, ...] = ()  # never files that match one of these


@frozen(kw_only=True)
class EngineOptions:
    """An engine that is reached by its URL instead of one on this machine."""

    url: str | None = None
    token: str | None = None


@frozen(kw_only=True)
class InitializationOptions:
    """`initializationOptions` of `initialize`. Every key may be missing; unknown keys are ignored, and logged."""

    protocol_version: int | None = None  # of this protocol, as the client speaks it; another one fails `initialize`
    model: str | None = None  # catalogue name, folder of safetensors, or path of a GGUF file
    device: str | None = None  # auto, cpu, cuda, cuda:1, …
    dtype: Literal["auto", "float32", "bfloat16"] | None = None  # of weights and KV
    kv_dtype: Literal["auto", "fp8", "int8"] | None = None  # of KV alone; auto is the model's
    max_context: int | None = None  # longest prompt plus answer, tokens
    kv_cache_tokens: int | None = None  # size of the engine's KV pool, tokens
    threads: int | None = None  # CPU threads for tensor work
    idle_timeout: float | None = None  # seconds after which an engine that nobody uses ends; 0 is never
    instructions: str | None = None  # the system message that stands before the chunks
    debounce_ms: int = 300  # how long a document must rest before its text goes to the engine
    documents: DocumentMode = "open"  # whether opened documents become chunks by themselves
    order: Order = "recency"  # where an edited chunk goes: to the end, or nowhere
    fidelity: Fidelity = "auto"  # of questions that don't say
    latency_budget_ms: float | None = None  # what `auto` may spend on exact KV; null takes the engine's own
    files: FileOptions = FileOptions()
    engine: EngineOptions = EngineOptions()
    token: str | None = None  # of a server that listens on TCP or WebSocket
    client_commands: tuple[str, ...] = ()  # commands of the client's own that code actions may name: `ctx.ask`
    log_level: LogLevel = "info"  # the least that is told to the client and the log file


@frozen(kw_only=True)
class NoParams:
    """Params of methods that need none: `{}`, `null` or nothing at all."""


@frozen(kw_only=True)
class Sampling:
    """How the answer's tokens are chosen; what is missing takes the engine's default (greedy)."""

    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    max_tokens: int | None = None
    stop: tuple[str, ...] | None = None
    seed: int | None = None


@frozen(kw_only=True)
class Usage:
    """Tokens of one answer: `prompt_tokens` = `reused_tokens` + `prefilled_tokens`.

    `completion_tokens` are all that were generated, the `reasoning_tokens` of what the model thought among them.
    """

    prompt_tokens: int
    reused_tokens: int
    prefilled_tokens: int
    completion_tokens: int
    reasoning_tokens: int = 0


@frozen(kw_only=True)
class Timing:
    """Seconds: waiting in the engine's queue, first token after the question came, whole answer."""

    queued: float
    time_to_first_token: float
    total: float
    tokens_per_second: float


@frozen(kw_only=True)
class ChunkInfo:
    """One chunk of the context. `warm_tokens` of its `tokens` have KV that a question asked now could use; a `pinned`
    one keeps its place in the order when it is edited. `origin` says whether it came by itself.
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
    origin: Origin = "user"


@frozen(kw_only=True)
class ChunkPlan:
    """One chunk's share of a plan or an answer; `reused` + `prefill` = `tokens`."""

    hash: str
    name: str
    tokens: int
    reused: int
    prefill: int
    fidelity: FidelityLabel


@frozen(kw_only=True)
class Plan:
    """What a question would cost if it were asked now, in tokens; `chunks` in prompt order.

    `mode` is how it would be answered; `time_to_first_token` is predicted, in seconds, and null before anything was
    measured.
    """

    tokens: int
    reused: int
    prefill: int
    limit: int
    chunks: tuple[ChunkPlan, ...]
    mode: PlanMode
    time_to_first_token: float | None
    estimated: bool = False  # the counts, where the engine can't be asked for them


@frozen(kw_only=True)
class Position:
    """As in LSP: from 0, `character` in the agreed position encoding."""

    line: int
    character: int


@frozen(kw_only=True)
class Range:
    """As in LSP: `end` is behind the last character."""

    start: Position
    end: Position


@frozen(kw_only=True)
class Selection:
    """A range of a document, whose text is the client's while it is open, else the file's."""

    uri: str
    range: Range


@frozen(kw_only=True)
class TurnContext:
    """What one question is about besides the active chunks: files by path or URI, and selections."""

    files: tuple[str, ...] = ()
    selections: tuple[Selection, ...] = ()


@frozen(kw_only=True)
class ChatParams:
    """A turn. `turn_id` is chosen by the client and keys the deltas; it must not name a turn that is still running.

    `replaces` names a turn of the conversation that is asked anew: with `text`, or as it was where that is null.
    `context` is for this turn alone; left out, a replaced turn's is kept. `fidelity` and `latency_budget_ms` take the
    options of the same names unless they are given.
    """

    turn_id: str
    text: str | None = None
    conversation_id: str = DEFAULT_CONVERSATION
    context: TurnContext | None = None
    replaces: str | None = None
    fidelity: Fidelity | None = None
    latency_budget_ms: float | None = None
    sampling: Sampling | None = None


@frozen(kw_only=True)
class ChatDelta:
    """A piece of what is generated. `seq` counts from 0 without gaps; the pieces of kind ``answer`` joined are the
    answer's text, those of kind ``reasoning`` what the model thought before it.
    """

    turn_id: str
    seq: int
    text: str
    kind: DeltaKind = "answer"


@frozen(kw_only=True)
class CodeBlock:
    """A fenced block of an answer, which reaches from `start` to `end` there, fences included, in the code units of the
    agreed position encoding. `language` and `path` are as the model named them.
    """

    language: str | None
    path: str | None
    text: str
    start: int
    end: int


@frozen(kw_only=True)
class ChatResult:
    """The whole answer, and the chunks it saw with the fidelity each one was used at."""

    turn_id: str
    conversation_id: str
    text: str
    reasoning: str = ""  # what the model thought before it answered; no part of the text
    code_blocks: tuple[CodeBlock, ...] = ()
    stop_reason: StopReason
    usage: Usage
    timing: Timing
    chunks: tuple[ChunkPlan, ...]
    fidelity: FidelityLabel  # the worst of those labels; exact where there are no chunks
    output: str | None  # hash of the output chunk that keeps the answer
    left_out_turns: int = 0  # the oldest ones, for which the window has no room; they stay in the history


@frozen(kw_only=True)
class Attachment:
    """A file or a selection (then with its `range`) that a turn was asked about, as its text was then."""

    source: str
    range: Range | None = None
    text: str


@frozen(kw_only=True)
class ChatTurn:
    """A question that was answered to its end, `asked` at an ISO 8601 time."""

    turn_id: str
    question: str
    context: tuple[Attachment, ...] = ()
    answer: str
    reasoning: str = ""
    code_blocks: tuple[CodeBlock, ...] = ()  # of the answer
    stop_reason: StopReason
    usage: Usage
    asked: str


@frozen(kw_only=True)
class ConversationInfo:
    """A conversation in a list: how many turns it has, and when it last changed (ISO 8601)."""

    conversation_id: str
    title: str
    turns: int
    updated: str


@frozen(kw_only=True)
class ConversationParams:
    conversation_id: str = DEFAULT_CONVERSATION


@frozen(kw_only=True)
class ForkParams:
    """A new conversation with the turns up to `turn_id` and that one; without it, with all turns."""

    conversation_id: str = DEFAULT_CONVERSATION
    turn_id: str | None = None


@frozen(kw_only=True)
class RenameParams:
    conversation_id: str = DEFAULT_CONVERSATION
    title: str


@frozen(kw_only=True)
class ConversationsResult:
    """What last changed comes first."""

    conversations: tuple[ConversationInfo, ...]


@frozen(kw_only=True)
class HistoryResult:
    conversation: ConversationInfo
    turns: tuple[ChatTurn, ...]


@frozen(kw_only=True)
class ApplyParams:
    """A code block and the file it is for.

    The block is `text` in `language`, or the one at the index `block` of what the turn `turn_id` answered. The file is
    `uri` or `path`; without either, the one that the model named.
    """

    text: str | None = None
    language: str | None = None
    conversation_id: str = DEFAULT_CONVERSATION
    turn_id: str | None = None
    block: int = 0
    uri: str | None = None
    path: str | None = None


@frozen(kw_only=True)
class ApplyResult:
    """`edit` is a WorkspaceEdit, for the client to apply. `summary` says for people what changes in `uri`."""

    uri: str
    how: ApplyHow
    summary: str
    edit: Any


@frozen(kw_only=True)
class LeftOut:
    """What could be in the prompt and isn't, and why. `tokens` are null where nobody counted them."""

    source: str
    tokens: int | None
    reason: str


@frozen(kw_only=True)
class ChunksResult:
    """The context's chunks in prompt order; `active_tokens` of `limit` are taken by the active ones.

    Token counts are `estimated` where the engine can't be asked for them.
    """

    chunks: tuple[ChunkInfo, ...]
    active_tokens: int
    limit: int
    estimated: bool = False
    left_out: tuple[LeftOut, ...] = ()


@frozen(kw_only=True)
class ChunksDidChange:
    """The chunk list changed: ask for it anew with `ctx/chunks` where it is shown."""

    active_tokens: int
    limit: int


@frozen(kw_only=True)
class VisibleEditorsParams:
    """The documents that the user can see or go to: every URI that has a tab or an editor."""

    uris: tuple[str, ...]


@frozen(kw_only=True)
class PopulateState:
    """How far background prefill has come, in tokens of the active composition. It is in the phase ``populate`` while
    chunks still lack KV, and in ``refine`` while near KV is replaced by exact.
    """

    done: int
    total: int
    phase: PopulatePhase = "populate"


@frozen(kw_only=True)
class Status:
    """The server's view of the engine. ``starting``: there is no process yet; ``loading``: it loads its model;
    ``failed``: it could not start, the next request tries again; ``stopped``: it ended, the next request starts it.
    """

    state: ServerState
    message: str  # for people
    model: str | None = None
    device: str | None = None
    progress: float | None = None  # 0 to 1 while starting or loading, where known
    active_tokens: int = 0
    limit: int = 0
    populate: PopulateState | None = None
    log_file: str | None = None  # the server's own


@frozen(kw_only=True)
class PlanParams:
    """The question that would be asked, in the conversation and as it would be asked."""

    text: str
    conversation_id: str = DEFAULT_CONVERSATION
    context: TurnContext | None = None
    fidelity: Fidelity | None = None
    latency_budget_ms: float | None = None


@frozen(kw_only=True)
class SlashParams:
    """A line that begins with a slash, e.g. ``/load src/*.py``."""

    text: str
    conversation_id: str = DEFAULT_CONVERSATION


@frozen(kw_only=True)
class SlashCompleteParams:
    """The line up to the cursor."""

    text: str


@frozen(kw_only=True)
class SlashItem:
    label: str
    insert_text: str
    detail: str


@frozen(kw_only=True)
class SlashCompleteResult:
    """`insert_text` replaces the line from `start` to the cursor; `start` counts in the agreed position encoding."""

    items: tuple[SlashItem, ...]
    start: int


@frozen(kw_only=True)
class CommandResult:
    """What every command and slash command answers: Markdown for people, `data` for programs."""

    markdown: str
    data: Any


@frozen(kw_only=True)
class LoadParams:
    """Files, folders and globs, relative to the first workspace folder or absolute.

    `discover` asks for the workspace's own files as well: as many as the server finds worth loading within a token
    budget, so that a client can open a folder without naming a file.
    """

    paths: tuple[str, ...] = ()
    discover: bool = False


@frozen(kw_only=True)
class Skipped:
    path: str
    reason: str


@frozen(kw_only=True)
class LoadResult:
    loaded: tuple[ChunkInfo, ...]
    skipped: tuple[Skipped, ...]


@frozen(kw_only=True)
class RefsParams:
    """Chunks by source, path, URI, `#tag`, hash, unique beginning of a hash (4 or more digits), glob or folder."""

    refs: tuple[str, ...]


@frozen(kw_only=True)
class PopulateParams:
    """Chunks to prefill; null means the whole active composition."""

    refs: tuple[str, ...] | None = None


@frozen(kw_only=True)
class ComposeParams:
    """The parts are the chunks of `refs` and behind them the `selections`, which become chunks for it."""

    refs: tuple[str, ...] = ()
    selections: tuple[Selection, ...] = ()
    name: str


@frozen(kw_only=True)
class MoveParams:
    """`position` counts from 0; negative ones from the end, where -1 is the last."""

    refs: tuple[str, ...]
    position: int


@frozen(kw_only=True)
class TagParams:
    refs: tuple[str, ...]
    tags: tuple[str, ...]


@frozen(kw_only=True)
class ClearParams:
    """``all``: chunks and the conversation; ``outputs``: chunks that keep answers; ``conversation``: its history."""

    scope: ClearScope = "all"
    conversation_id: str = DEFAULT_CONVERSATION


@frozen(kw_only=True)
class ChunkList:
    chunks: tuple[ChunkInfo, ...]


@frozen(kw_only=True)
class DeleteResult:
    hashes: tuple[str, ...]


@frozen(kw_only=True)
class ClearResult:
    scope: ClearScope


@frozen(kw_only=True)
class SavedParams:
    """The name of a context that is saved, per workspace."""

    name: str


@frozen(kw_only=True)
class SavedInfo:
    """A context that was saved, with how many chunks and how many tokens of active ones; `saved` as ISO 8601 has it."""

    name: str
    saved: str
    chunks: int
    active_tokens: int


@frozen(kw_only=True)
class SavedList:
    """The last saved first."""

    contexts: tuple[SavedInfo, ...]


@frozen(kw_only=True)
class RestoreResult:
    """The chunks that were saved, as they are now. In `changed` are sources that have another text by now, in
    `recovered` those that were gone and came back as they were saved, in `lost` those that could not be brought back.
    """

    name: str
    chunks: tuple[ChunkInfo, ...]
    changed: tuple[str, ...]
    recovered: tuple[str, ...]
    lost: tuple[str, ...]


@frozen(kw_only=True)
class EngineStats:
    """What the engine has counted since it started, over all contexts."""

    tokens_prefilled: int
    tokens_decoded: int
    running: int  # answers that are being generated
    queued: int  # questions that wait
    contexts: int
    segments: int  # runs of tokens with KV
    blocks_used: int
    blocks_total: int
    block_size: int  # tokens of KV in a block


@frozen(kw_only=True)
class StatsResult:
    """Numbers of this context; `engine` is null where the engine doesn't count."""

    chunks: int
    active_chunks: int
    tokens: int
    active_tokens: int
    warm_tokens: int  # of the active ones
    limit: int
    engine: EngineStats | None


@frozen(kw_only=True)
class SlashUsage:
    name: str
    usage: str
    summary: str


@frozen(kw_only=True)
class HelpResult:
    commands: tuple[SlashUsage, ...]


@frozen(kw_only=True)
class ContentParams:
    """A `ctx:` URI."""

    uri: str


@frozen(kw_only=True)
class ContentResult:
    """A `ctx:` document; `language_id` as LSP has them."""

    text: str
    language_id: str


@frozen(kw_only=True)
class AddSelectionParams:
    """What becomes a chunk, called `name`, or by its document and lines."""

    uri: str
    range: Range
    name: str | None = None


@frozen(kw_only=True)
class ExplainParams:
    """The code, or a `problem` with it, that is to be explained."""

    uri: str
    range: Range
    problem: str | None = None


@frozen(kw_only=True)
class ShowParams:
    """A `ctx:` URI."""

    uri: str


@frozen(kw_only=True)
class ShowResult:
    """Whether the client has opened it."""

    shown: bool


CHAT = "ctx/chat"
CHAT_DELTA = "ctx/chat/delta"
CONVERSATIONS = "ctx/chat/conversations"
HISTORY = "ctx/chat/history"
FORK = "ctx/chat/fork"
RENAME = "ctx/chat/rename"
DELETE_CONVERSATION = "ctx/chat/delete"
APPLY = "ctx/chat/apply"
CHUNKS = "ctx/chunks"
CHUNKS_DID_CHANGE = "ctx/chunks/didChange"
VISIBLE_EDITORS = "ctx/editors/didChangeVisible"
STATUS = "ctx/status"
STATUS_DID_CHANGE = "ctx/status/didChange"
PLAN = "ctx/plan"
SLASH = "ctx/slash"
SLASH_COMPLETE = "ctx/slash/complete"
CONTENT = "ctx/content"

LOAD_COMMAND = "ctx.load"
CONTEXT_COMMAND = "ctx.context"
ACTIVATE_COMMAND = "ctx.activate"
DEACTIVATE_COMMAND = "ctx.deactivate"
PIN_COMMAND = "ctx.pin"
UNPIN_COMMAND = "ctx.unpin"
POPULATE_COMMAND = "ctx.populate"
COMPOSE_COMMAND = "ctx.compose"
MOVE_COMMAND = "ctx.move"
TAG_COMMAND = "ctx.tag"
SAVE_COMMAND = "ctx.save"
RESTORE_COMMAND = "ctx.restore"
SAVED_COMMAND = "ctx.saved"
FORGET_COMMAND = "ctx.forget"
PLAN_COMMAND = "ctx.plan"
STATS_COMMAND = "ctx.stats"
DELETE_COMMAND = "ctx.delete"
CLEAR_COMMAND = "ctx.clear"
ADD_SELECTION_COMMAND = "ctx.addSelection"
EXPLAIN_COMMAND = "ctx.explain"
SHOW_COMMAND = "ctx.show"

ASK_CLIENT_COMMAND = "ctx.ask"
"""A command of the client's own, which takes `ChatParams`."""


@frozen(kw_only=True)
class Method:
    """One row of the protocol. Requests go to the server, notifications to either side; a command is a name for
    ``workspace/executeCommand`` whose only argument is one `params` object.
    """

    name: str
    kind: Literal["request", "notification", "command"]
    params: type[Any]
    result: type[Any] | None = None
    data: type[Any] | None = None  # of a result that is a CommandResult


def _command(name: str, params: type[Any], data: type[Any]) -> Method:
    return Method(name=name, kind="command", params=params, result=CommandResult, data=data)


METHODS: dict[str, Method] = {
    method.name: method
    for method in (
        Method(name=CHAT, kind="request", params=ChatParams, result=ChatResult),
        Method(name=CHAT_DELTA, kind="notification", params=ChatDelta),
        Method(name=CONVERSATIONS, kind="request", params=NoParams, result=ConversationsResult),
        Method(name=HISTORY, kind="request", params=ConversationParams, result=HistoryResult),
        Method(name=FORK, kind="request", params=ForkParams, result=ConversationInfo),
        Method(name=RENAME, kind="request", params=RenameParams, result=ConversationInfo),
        Method(name=DELETE_CONVERSATION, kind="request", params=ConversationParams, result=ConversationInfo),
        Method(name=APPLY, kind="request", params=ApplyParams, result=ApplyResult),
        Method(name=CHUNKS, kind="request", params=NoParams, result=ChunksResult),
        Method(name=CHUNKS_DID_CHANGE, kind="notification", params=ChunksDidChange),
        Method(name=VISIBLE_EDITORS, kind="notification", params=VisibleEditorsParams),
        Method(name=STATUS, kind="request", params=NoParams, result=Status),
        Method(name=STATUS_DID_CHANGE, kind="notification", params=Status),
        Method(name=PLAN, kind="request", params=PlanParams, result=Plan),
        Method(name=SLASH, kind="request", params=SlashParams, result=CommandResult),
        Method(name=SLASH_COMPLETE, kind="request", params=SlashCompleteParams, result=SlashCompleteResult),
        Method(name=CONTENT, kind="request", params=ContentParams, result=ContentResult),
        _command(LOAD_COMMAND, LoadParams, LoadResult),
        _command(CONTEXT_COMMAND, NoParams, ChunksResult),
        _command(ACTIVATE_COMMAND, RefsParams, ChunkList),
        _command(DEACTIVATE_COMMAND, RefsParams, ChunkList),
        _command(PIN_COMMAND, RefsParams, ChunkList),
        _command(UNPIN_COMMAND, RefsParams, ChunkList),
        _command(POPULATE_COMMAND, PopulateParams, Plan),
        _command(COMPOSE_COMMAND, ComposeParams, ChunkInfo),
        _command(MOVE_COMMAND, MoveParams, ChunksResult),
        _command(TAG_COMMAND, TagParams, ChunkList),
        _command(SAVE_COMMAND, SavedParams, SavedInfo),
        _command(RESTORE_COMMAND, SavedParams, RestoreResult),
        _command(SAVED_COMMAND, NoParams, SavedList),
        _command(FORGET_COMMAND, SavedParams, SavedInfo),
        _command(PLAN_COMMAND, PlanParams, Plan),
        _command(STATS_COMMAND, NoParams, StatsResult),
        _command(DELETE_COMMAND, RefsParams, DeleteResult),
        _command(CLEAR_COMMAND, ClearParams, ClearResult),
        _command(ADD_SELECTION_COMMAND, AddSelectionParams, ChunkInfo),
        _command(EXPLAIN_COMMAND, ExplainParams, ChatResult),
        _command(SHOW_COMMAND, ShowParams, ShowResult),
    )
}
"""Every method of this protocol by name."""

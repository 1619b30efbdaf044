// Generated from ctx_lsp/protocol.py by `python -m ctx_lsp.generate`: don't edit.

/** Of the protocol: the server's is `capabilities.experimental.ctx.version`. */
export const VERSION = 1;

export type Fidelity = "exact" | "auto" | "instant";
export type FidelityLabel = "exact" | "near" | "anchored" | "cold";
export type ChunkKind = "file" | "selection" | "output" | "composition";
export type StopReason = "stop" | "length" | "cancelled";
export type ServerState = "starting" | "loading" | "ready" | "failed" | "stopped";
export type ClearScope = "all" | "outputs" | "conversation";
export type DocumentMode = "open" | "manual";
export type Order = "recency" | "fixed";
export type DeltaKind = "answer" | "reasoning";
export type ApplyHow = "exact" | "fuzzy" | "create";
export type PlanMode = "exact" | "instant";
export type PopulatePhase = "populate" | "refine";
export type Origin = "user" | "automatic";
export type LogLevel = "error" | "warning" | "info" | "debug";

/** Which of the workspace's files are loaded by themselves: globs, relative to each workspace folder. */
export interface FileOptions {
  /** at most so many tokens of them; 0 loads none; default: `6000` */
  maxTokens?: number;
  /** only files that match one of these; none means all */
  include?: string[];
  /** never files that match one of these */
  exclude?: string[];
}

/** An engine that is reached by its URL instead of one on this machine. */
export interface EngineOptions {
  url?: string | null;
  token?: string | null;
}

/** `initializationOptions` of `initialize`. Every key may be missing; unknown keys are ignored, and logged. */
export interface InitializationOptions {
  /** of this protocol, as the client speaks it; another one fails `initialize` */
  protocolVersion?: number | null;
  /** catalogue name, folder of safetensors, or path of a GGUF file */
  model?: string | null;
  /** auto, cpu, cuda, cuda:1, … */
  device?: string | null;
  /** of weights and KV */
  dtype?: "auto" | "float32" | "bfloat16" | null;
  /** of KV alone; auto is the model's */
  kvDtype?: "auto" | "fp8" | "int8" | null;
  /** longest prompt plus answer, tokens */
  maxContext?: number | null;
  /** size of the engine's KV pool, tokens */
  kvCacheTokens?: number | null;
  /** CPU threads for tensor work */
  threads?: number | null;
  /** seconds after which an engine that nobody uses ends; 0 is never */
  idleTimeout?: number | null;
  /** the system message that stands before the chunks */
  instructions?: string | null;
  /** how long a document must rest before its text goes to the engine; default: `300` */
  debounceMs?: number;
  /** whether opened documents become chunks by themselves; default: `"open"` */
  documents?: DocumentMode;
  /** where an edited chunk goes: to the end, or nowhere; default: `"recency"` */
  order?: Order;
  /** of questions that don't say; default: `"auto"` */
  fidelity?: Fidelity;
  /** what `auto` may spend on exact KV; null takes the engine's own */
  latencyBudgetMs?: number | null;
  files?: FileOptions;
  engine?: EngineOptions;
  /** of a server that listens on TCP or WebSocket */
  token?: string | null;
  /** commands of the client's own that code actions may name: `ctx.ask` */
  clientCommands?: string[];
  /** the least that is told to the client and the log file; default: `"info"` */
  logLevel?: LogLevel;
}

/** Params of methods that need none: `{}`, `null` or nothing at all. */
export type NoParams = Record<string, never>;

/** How the answer's tokens are chosen; what is missing takes the engine's default (greedy). */
export interface Sampling {
  temperature?: number | null;
  topK?: number | null;
  topP?: number | null;
  minP?: number | null;
  repetitionPenalty?: number | null;
  maxTokens?: number | null;
  stop?: string[] | null;
  seed?: number | null;
}

/**
 * Tokens of one answer: `promptTokens` = `reusedTokens` + `prefilledTokens`.
 *
 * `completionTokens` are all that were generated, the `reasoningTokens` of what the model thought among them.
 */
export interface Usage {
  promptTokens: number;
  reusedTokens: number;
  prefilledTokens: number;
  completionTokens: number;
  /** default: `0` */
  reasoningTokens?: number;
}

/** Seconds: waiting in the engine's queue, first token after the question came, whole answer. */
export interface Timing {
  queued: number;
  timeToFirstToken: number;
  total: number;
  tokensPerSecond: number;
}

/**
 * One chunk of the context. `warmTokens` of its `tokens` have KV that a question asked now could use; a `pinned`
 * one keeps its place in the order when it is edited. `origin` says whether it came by itself.
 */
export interface ChunkInfo {
  hash: string;
  kind: ChunkKind;
  name: string;
  sources: string[];
  tags: string[];
  parts: string[];
  active: boolean;
  tokens: number;
  warmTokens: number;
  fidelity: FidelityLabel;
  pinned: boolean;
  /** default: `"user"` */
  origin?: Origin;
}

/** One chunk's share of a plan or an answer; `reused` + `prefill` = `tokens`. */
export interface ChunkPlan {
  hash: string;
  name: string;
  tokens: number;
  reused: number;
  prefill: number;
  fidelity: FidelityLabel;
}

/**
 * What a question would cost if it were asked now, in tokens; `chunks` in prompt order.
 *
 * `mode` is how it would be answered; `timeToFirstToken` is predicted, in seconds, and null before anything was
 * measured.
 */
export interface Plan {
  tokens: number;
  reused: number;
  prefill: number;
  limit: number;
  chunks: ChunkPlan[];
  mode: PlanMode;
  timeToFirstToken: number | null;
  /** the counts, where the engine can't be asked for them; default: `false` */
  estimated?: boolean;
}

/** As in LSP: from 0, `character` in the agreed position encoding. */
export interface Position {
  line: number;
  character: number;
}

/** As in LSP: `end` is behind the last character. */
export interface Range {
  start: Position;
  end: Position;
}

/** A range of a document, whose text is the client's while it is open, else the file's. */
export interface Selection {
  uri: string;
  range: Range;
}

/** What one question is about besides the active chunks: files by path or URI, and selections. */
export interface TurnContext {
  files?: string[];
  selections?: Selection[];
}

/**
 * A turn. `turnId` is chosen by the client and keys the deltas; it must not name a turn that is still running.
 *
 * `replaces` names a turn of the conversation that is asked anew: with `text`, or as it was where that is null.
 * `context` is for this turn alone; left out, a replaced turn's is kept. `fidelity` and `latencyBudgetMs` take the
 * options of the same names unless they are given.
 */
export interface ChatParams {
  turnId: string;
  text?: string | null;
  /** default: `"default"` */
  conversationId?: string;
  context?: TurnContext | null;
  replaces?: string | null;
  fidelity?: Fidelity | null;
  latencyBudgetMs?: number | null;
  sampling?: Sampling | null;
}

/**
 * A piece of what is generated. `seq` counts from 0 without gaps; the pieces of kind `answer` joined are the
 * answer's text, those of kind `reasoning` what the model thought before it.
 */
export interface ChatDelta {
  turnId: string;
  seq: number;
  text: string;
  /** default: `"answer"` */
  kind?: DeltaKind;
}

/**
 * A fenced block of an answer, which reaches from `start` to `end` there, fences included, in the code units of the
 * agreed position encoding. `language` and `path` are as the model named them.
 */
export interface CodeBlock {
  language: string | null;
  path: string | null;
  text: string;
  start: number;
  end: number;
}

/** The whole answer, and the chunks it saw with the fidelity each one was used at. */
export interface ChatResult {
  turnId: string;
  conversationId: string;
  text: string;
  /** what the model thought before it answered; no part of the text; default: `""` */
  reasoning?: string;
  codeBlocks?: CodeBlock[];
  stopReason: StopReason;
  usage: Usage;
  timing: Timing;
  chunks: ChunkPlan[];
  /** the worst of those labels; exact where there are no chunks */
  fidelity: FidelityLabel;
  /** hash of the output chunk that keeps the answer */
  output: string | null;
  /** the oldest ones, for which the window has no room; they stay in the history; default: `0` */
  leftOutTurns?: number;
}

/** A file or a selection (then with its `range`) that a turn was asked about, as its text was then. */
export interface Attachment {
  source: string;
  range?: Range | null;
  text: string;
}

/** A question that was answered to its end, `asked` at an ISO 8601 time. */
export interface ChatTurn {
  turnId: string;
  question: string;
  context?: Attachment[];
  answer: string;
  /** default: `""` */
  reasoning?: string;
  /** of the answer */
  codeBlocks?: CodeBlock[];
  stopReason: StopReason;
  usage: Usage;
  asked: string;
}

/** A conversation in a list: how many turns it has, and when it last changed (ISO 8601). */
export interface ConversationInfo {
  conversationId: string;
  title: string;
  turns: number;
  updated: string;
}

export interface ConversationParams {
  /** default: `"default"` */
  conversationId?: string;
}

/** A new conversation with the turns up to `turnId` and that one; without it, with all turns. */
export interface ForkParams {
  /** default: `"default"` */
  conversationId?: string;
  turnId?: string | null;
}

export interface RenameParams {
  /** default: `"default"` */
  conversationId?: string;
  title: string;
}

/** What last changed comes first. */
export interface ConversationsResult {
  conversations: ConversationInfo[];
}

export interface HistoryResult {
  conversation: ConversationInfo;
  turns: ChatTurn[];
}

/**
 * A code block and the file it is for.
 *
 * The block is `text` in `language`, or the one at the index `block` of what the turn `turnId` answered. The file is
 * `uri` or `path`; without either, the one that the model named.
 */
export interface ApplyParams {
  text?: string | null;
  language?: string | null;
  /** default: `"default"` */
  conversationId?: string;
  turnId?: string | null;
  /** default: `0` */
  block?: number;
  uri?: string | null;
  path?: string | null;
}

/** `edit` is a WorkspaceEdit, for the client to apply. `summary` says for people what changes in `uri`. */
export interface ApplyResult {
  uri: string;
  how: ApplyHow;
  summary: string;
  edit: unknown;
}

/** What could be in the prompt and isn't, and why. `tokens` are null where nobody counted them. */
export interface LeftOut {
  source: string;
  tokens: number | null;
  reason: string;
}

/**
 * The context's chunks in prompt order; `activeTokens` of `limit` are taken by the active ones.
 *
 * Token counts are `estimated` where the engine can't be asked for them.
 */
export interface ChunksResult {
  chunks: ChunkInfo[];
  activeTokens: number;
  limit: number;
  /** default: `false` */
  estimated?: boolean;
  leftOut?: LeftOut[];
}

/** The chunk list changed: ask for it anew with `ctx/chunks` where it is shown. */
export interface ChunksDidChange {
  activeTokens: number;
  limit: number;
}

/** The documents that the user can see or go to: every URI that has a tab or an editor. */
export interface VisibleEditorsParams {
  uris: string[];
}

/**
 * How far background prefill has come, in tokens of the active composition. It is in the phase `populate` while
 * chunks still lack KV, and in `refine` while near KV is replaced by exact.
 */
export interface PopulateState {
  done: number;
  total: number;
  /** default: `"populate"` */
  phase?: PopulatePhase;
}

/**
 * The server's view of the engine. `starting`: there is no process yet; `loading`: it loads its model;
 * `failed`: it could not start, the next request tries again; `stopped`: it ended, the next request starts it.
 */
export interface Status {
  state: ServerState;
  /** for people */
  message: string;
  model?: string | null;
  device?: string | null;
  /** 0 to 1 while starting or loading, where known */
  progress?: number | null;
  /** default: `0` */
  activeTokens?: number;
  /** default: `0` */
  limit?: number;
  populate?: PopulateState | null;
  /** the server's own */
  logFile?: string | null;
}

/** The question that would be asked, in the conversation and as it would be asked. */
export interface PlanParams {
  text: string;
  /** default: `"default"` */
  conversationId?: string;
  context?: TurnContext | null;
  fidelity?: Fidelity | null;
  latencyBudgetMs?: number | null;
}

/** A line that begins with a slash, e.g. `/load src/*.py`. */
export interface SlashParams {
  text: string;
  /** default: `"default"` */
  conversationId?: string;
}

/** The line up to the cursor. */
export interface SlashCompleteParams {
  text: string;
}

export interface SlashItem {
  label: string;
  insertText: string;
  detail: string;
}

/** `insertText` replaces the line from `start` to the cursor; `start` counts in the agreed position encoding. */
export interface SlashCompleteResult {
  items: SlashItem[];
  start: number;
}

/** What every command and slash command answers: Markdown for people, `data` for programs. */
export interface CommandResult {
  markdown: string;
  data: unknown;
}

/**
 * Files, folders and globs, relative to the first workspace folder or absolute.
 *
 * `discover` asks for the workspace's own files as well: as many as the server finds worth loading within a token
 * budget, so that a client can open a folder without naming a file.
 */
export interface LoadParams {
  paths?: string[];
  /** default: `false` */
  discover?: boolean;
}

export interface Skipped {
  path: string;
  reason: string;
}

export interface LoadResult {
  loaded: ChunkInfo[];
  skipped: Skipped[];
}

/** Chunks by source, path, URI, `#tag`, hash, unique beginning of a hash (4 or more digits), glob or folder. */
export interface RefsParams {
  refs: string[];
}

/** Chunks to prefill; null means the whole active composition. */
export interface PopulateParams {
  refs?: string[] | null;
}

/** The parts are the chunks of `refs` and behind them the `selections`, which become chunks for it. */
export interface ComposeParams {
  refs?: string[];
  selections?: Selection[];
  name: string;
}

/** `position` counts from 0; negative ones from the end, where -1 is the last. */
export interface MoveParams {
  refs: string[];
  position: number;
}

export interface TagParams {
  refs: string[];
  tags: string[];
}

/** `all`: chunks and the conversation; `outputs`: chunks that keep answers; `conversation`: its history. */
export interface ClearParams {
  /** default: `"all"` */
  scope?: ClearScope;
  /** default: `"default"` */
  conversationId?: string;
}

export interface ChunkList {
  chunks: ChunkInfo[];
}

export interface DeleteResult {
  hashes: string[];
}

export interface ClearResult {
  scope: ClearScope;
}

/** The name of a context that is saved, per workspace. */
export interface SavedParams {
  name: string;
}

/** A context that was saved, with how many chunks and how many tokens of active ones; `saved` as ISO 8601 has it. */
export interface SavedInfo {
  name: string;
  saved: string;
  chunks: number;
  activeTokens: number;
}

/** The last saved first. */
export interface SavedList {
  contexts: SavedInfo[];
}

/**
 * The chunks that were saved, as they are now. In `changed` are sources that have another text by now, in
 * `recovered` those that were gone and came back as they were saved, in `lost` those that could not be brought back.
 */
export interface RestoreResult {
  name: string;
  chunks: ChunkInfo[];
  changed: string[];
  recovered: string[];
  lost: string[];
}

/** What the engine has counted since it started, over all contexts. */
export interface EngineStats {
  tokensPrefilled: number;
  tokensDecoded: number;
  /** answers that are being generated */
  running: number;
  /** questions that wait */
  queued: number;
  contexts: number;
  /** runs of tokens with KV */
  segments: number;
  blocksUsed: number;
  blocksTotal: number;
  /** tokens of KV in a block */
  blockSize: number;
}

/** Numbers of this context; `engine` is null where the engine doesn't count. */
export interface StatsResult {
  chunks: number;
  activeChunks: number;
  tokens: number;
  activeTokens: number;
  /** of the active ones */
  warmTokens: number;
  limit: number;
  engine: EngineStats | null;
}

export interface SlashUsage {
  name: string;
  usage: string;
  summary: string;
}

export interface HelpResult {
  commands: SlashUsage[];
}

/** A `ctx:` URI. */
export interface ContentParams {
  uri: string;
}

/** A `ctx:` document; `languageId` as LSP has them. */
export interface ContentResult {
  text: string;
  languageId: string;
}

/** What becomes a chunk, called `name`, or by its document and lines. */
export interface AddSelectionParams {
  uri: string;
  range: Range;
  name?: string | null;
}

/** The code, or a `problem` with it, that is to be explained. */
export interface ExplainParams {
  uri: string;
  range: Range;
  problem?: string | null;
}

/** A `ctx:` URI. */
export interface ShowParams {
  uri: string;
}

/** Whether the client has opened it. */
export interface ShowResult {
  shown: boolean;
}

/** Requests to the server, by method. */
export interface Requests {
  "ctx/chat": { params: ChatParams; result: ChatResult };
  "ctx/chat/conversations": { params: NoParams; result: ConversationsResult };
  "ctx/chat/history": { params: ConversationParams; result: HistoryResult };
  "ctx/chat/fork": { params: ForkParams; result: ConversationInfo };
  "ctx/chat/rename": { params: RenameParams; result: ConversationInfo };
  "ctx/chat/delete": { params: ConversationParams; result: ConversationInfo };
  "ctx/chat/apply": { params: ApplyParams; result: ApplyResult };
  "ctx/chunks": { params: NoParams; result: ChunksResult };
  "ctx/status": { params: NoParams; result: Status };
  "ctx/plan": { params: PlanParams; result: Plan };
  "ctx/slash": { params: SlashParams; result: CommandResult };
  "ctx/slash/complete": { params: SlashCompleteParams; result: SlashCompleteResult };
  "ctx/content": { params: ContentParams; result: ContentResult };
}

export const Request = {
  chat: "ctx/chat",
  chatConversations: "ctx/chat/conversations",
  chatHistory: "ctx/chat/history",
  chatFork: "ctx/chat/fork",
  chatRename: "ctx/chat/rename",
  chatDelete: "ctx/chat/delete",
  chatApply: "ctx/chat/apply",
  chunks: "ctx/chunks",
  status: "ctx/status",
  plan: "ctx/plan",
  slash: "ctx/slash",
  slashComplete: "ctx/slash/complete",
  content: "ctx/content",
} as const satisfies Record<string, keyof Requests>;

/** Params of notifications, by method. docs/protocol.md says who sends them. */
export interface Notifications {
  "ctx/chat/delta": ChatDelta;
  "ctx/chunks/didChange": ChunksDidChange;
  "ctx/editors/didChangeVisible": VisibleEditorsParams;
  "ctx/status/didChange": Status;
}

export const Notification = {
  chatDelta: "ctx/chat/delta",
  chunksDidChange: "ctx/chunks/didChange",
  editorsDidChangeVisible: "ctx/editors/didChangeVisible",
  statusDidChange: "ctx/status/didChange",
} as const satisfies Record<string, keyof Notifications>;

/**
 * Commands for `workspace/executeCommand`, by name: each takes one object and answers with a
 * `CommandResult` of this `data`.
 */
export interface Commands {
  "ctx.load": { params: LoadParams; data: LoadResult };
  "ctx.context": { params: NoParams; data: ChunksResult };
  "ctx.activate": { params: RefsParams; data: ChunkList };
  "ctx.deactivate": { params: RefsParams; data: ChunkList };
  "ctx.pin": { params: RefsParams; data: ChunkList };
  "ctx.unpin": { params: RefsParams; data: ChunkList };
  "ctx.populate": { params: PopulateParams; data: Plan };
  "ctx.compose": { params: ComposeParams; data: ChunkInfo };
  "ctx.move": { params: MoveParams; data: ChunksResult };
  "ctx.tag": { params: TagParams; data: ChunkList };
  "ctx.save": { params: SavedParams; data: SavedInfo };
  "ctx.restore": { params: SavedParams; data: RestoreResult };
  "ctx.saved": { params: NoParams; data: SavedList };
  "ctx.forget": { params: SavedParams; data: SavedInfo };
  "ctx.plan": { params: PlanParams; data: Plan };
  "ctx.stats": { params: NoParams; data: StatsResult };
  "ctx.delete": { params: RefsParams; data: DeleteResult };
  "ctx.clear": { params: ClearParams; data: ClearResult };
  "ctx.addSelection": { params: AddSelectionParams; data: ChunkInfo };
  "ctx.explain": { params: ExplainParams; data: ChatResult };
  "ctx.show": { params: ShowParams; data: ShowResult };
}

export const Command = {
  load: "ctx.load",
  context: "ctx.context",
  activate: "ctx.activate",
  deactivate: "ctx.deactivate",
  pin: "ctx.pin",
  unpin: "ctx.unpin",
  populate: "ctx.populate",
  compose: "ctx.compose",
  move: "ctx.move",
  tag: "ctx.tag",
  save: "ctx.save",
  restore: "ctx.restore",
  saved: "ctx.saved",
  forget: "ctx.forget",
  plan: "ctx.plan",
  stats: "ctx.stats",
  delete: "ctx.delete",
  clear: "ctx.clear",
  addSelection: "ctx.addSelection",
  explain: "ctx.explain",
  show: "ctx.show",
} as const satisfies Record<string, keyof Commands>;

-- Generated from ctx_lsp/protocol.py by `python -m ctx_lsp.generate`: don't edit.

---@alias ctx_lsp.Fidelity "exact"|"auto"|"instant"
---@alias ctx_lsp.FidelityLabel "exact"|"near"|"anchored"|"cold"
---@alias ctx_lsp.ChunkKind "file"|"selection"|"output"|"composition"
---@alias ctx_lsp.StopReason "stop"|"length"|"cancelled"
---@alias ctx_lsp.ServerState "starting"|"loading"|"ready"|"failed"|"stopped"
---@alias ctx_lsp.ClearScope "all"|"outputs"|"conversation"
---@alias ctx_lsp.DocumentMode "open"|"manual"
---@alias ctx_lsp.Order "recency"|"fixed"
---@alias ctx_lsp.DeltaKind "answer"|"reasoning"
---@alias ctx_lsp.ApplyHow "exact"|"fuzzy"|"create"
---@alias ctx_lsp.PlanMode "exact"|"instant"
---@alias ctx_lsp.PopulatePhase "populate"|"refine"
---@alias ctx_lsp.Origin "user"|"automatic"
---@alias ctx_lsp.LogLevel "error"|"warning"|"info"|"debug"

--- Which of the workspace's files are loaded by themselves: globs, relative to each workspace folder.
---@class ctx_lsp.FileOptions
---@field maxTokens? integer at most so many tokens of them; 0 loads none; default: 6000
---@field include? string[] only files that match one of these; none means all
---@field exclude? string[] never files that match one of these

--- An engine that is reached by its URL instead of one on this machine.
---@class ctx_lsp.EngineOptions
---@field url? string
---@field token? string

--- `initializationOptions` of `initialize`. Every key may be missing; unknown keys are ignored, and logged.
---@class ctx_lsp.InitializationOptions
---@field protocolVersion? integer of this protocol, as the client speaks it; another one fails `initialize`
---@field model? string catalogue name, folder of safetensors, or path of a GGUF file
---@field device? string auto, cpu, cuda, cuda:1, …
---@field dtype? "auto"|"float32"|"bfloat16" of weights and KV
---@field kvDtype? "auto"|"fp8"|"int8" of KV alone; auto is the model's
---@field maxContext? integer longest prompt plus answer, tokens
---@field kvCacheTokens? integer size of the engine's KV pool, tokens
---@field threads? integer CPU threads for tensor work
---@field idleTimeout? number seconds after which an engine that nobody uses ends; 0 is never
---@field instructions? string the system message that stands before the chunks
---@field debounceMs? integer how long a document must rest before its text goes to the engine; default: 300
---@field documents? ctx_lsp.DocumentMode whether opened documents become chunks by themselves; default: "open"
---@field order? ctx_lsp.Order where an edited chunk goes: to the end, or nowhere; default: "recency"
---@field fidelity? ctx_lsp.Fidelity of questions that don't say; default: "auto"
---@field latencyBudgetMs? number what `auto` may spend on exact KV; null takes the engine's own
---@field files? ctx_lsp.FileOptions
---@field engine? ctx_lsp.EngineOptions
---@field token? string of a server that listens on TCP or WebSocket
---@field clientCommands? string[] commands of the client's own that code actions may name: `ctx.ask`
---@field logLevel? ctx_lsp.LogLevel the least that is told to the client and the log file; default: "info"

--- Params of methods that need none: `{}`, `null` or nothing at all.
---@class ctx_lsp.NoParams

--- How the answer's tokens are chosen; what is missing takes the engine's default (greedy).
---@class ctx_lsp.Sampling
---@field temperature? number
---@field topK? integer
---@field topP? number
---@field minP? number
---@field repetitionPenalty? number
---@field maxTokens? integer
---@field stop? string[]
---@field seed? integer

--- Tokens of one answer: `promptTokens` = `reusedTokens` + `prefilledTokens`.
---
--- `completionTokens` are all that were generated, the `reasoningTokens` of what the model thought among them.
---@class ctx_lsp.Usage
---@field promptTokens integer
---@field reusedTokens integer
---@field prefilledTokens integer
---@field completionTokens integer
---@field reasoningTokens? integer default: 0

--- Seconds: waiting in the engine's queue, first token after the question came, whole answer.
---@class ctx_lsp.Timing
---@field queued number
---@field timeToFirstToken number
---@field total number
---@field tokensPerSecond number

--- One chunk of the context. `warmTokens` of its `tokens` have KV that a question asked now could use; a `pinned`
--- one keeps its place in the order when it is edited. `origin` says whether it came by itself.
---@class ctx_lsp.ChunkInfo
---@field hash string
---@field kind ctx_lsp.ChunkKind
---@field name string
---@field sources string[]
---@field tags string[]
---@field parts string[]
---@field active boolean
---@field tokens integer
---@field warmTokens integer
---@field fidelity ctx_lsp.FidelityLabel
---@field pinned boolean
---@field origin? ctx_lsp.Origin default: "user"

--- One chunk's share of a plan or an answer; `reused` + `prefill` = `tokens`.
---@class ctx_lsp.ChunkPlan
---@field hash string
---@field name string
---@field tokens integer
---@field reused integer
---@field prefill integer
---@field fidelity ctx_lsp.FidelityLabel

--- What a question would cost if it were asked now, in tokens; `chunks` in prompt order.
---
--- `mode` is how it would be answered; `timeToFirstToken` is predicted, in seconds, and null before anything was
--- measured.
---@class ctx_lsp.Plan
---@field tokens integer
---@field reused integer
---@field prefill integer
---@field limit integer
---@field chunks ctx_lsp.ChunkPlan[]
---@field mode ctx_lsp.PlanMode
---@field timeToFirstToken? number
---@field estimated? boolean the counts, where the engine can't be asked for them; default: false

--- As in LSP: from 0, `character` in the agreed position encoding.
---@class ctx_lsp.Position
---@field line integer
---@field character integer

--- As in LSP: `end` is behind the last character.
---@class ctx_lsp.Range
---@field start ctx_lsp.Position
---@field end ctx_lsp.Position

--- A range of a document, whose text is the client's while it is open, else the file's.
---@class ctx_lsp.Selection
---@field uri string
---@field range ctx_lsp.Range

--- What one question is about besides the active chunks: files by path or URI, and selections.
---@class ctx_lsp.TurnContext
---@field files? string[]
---@field selections? ctx_lsp.Selection[]

--- A turn. `turnId` is chosen by the client and keys the deltas; it must not name a turn that is still running.
---
--- `replaces` names a turn of the conversation that is asked anew: with `text`, or as it was where that is null.
--- `context` is for this turn alone; left out, a replaced turn's is kept. `fidelity` and `latencyBudgetMs` take the
--- options of the same names unless they are given.
---@class ctx_lsp.ChatParams
---@field turnId string
---@field text? string
---@field conversationId? string default: "default"
---@field context? ctx_lsp.TurnContext
---@field replaces? string
---@field fidelity? ctx_lsp.Fidelity
---@field latencyBudgetMs? number
---@field sampling? ctx_lsp.Sampling

--- A piece of what is generated. `seq` counts from 0 without gaps; the pieces of kind `answer` joined are the
--- answer's text, those of kind `reasoning` what the model thought before it.
---@class ctx_lsp.ChatDelta
---@field turnId string
---@field seq integer
---@field text string
---@field kind? ctx_lsp.DeltaKind default: "answer"

--- A fenced block of an answer, which reaches from `start` to `end` there, fences included, in the code units of the
--- agreed position encoding. `language` and `path` are as the model named them.
---@class ctx_lsp.CodeBlock
---@field language? string
---@field path? string
---@field text string
---@field start integer
---@field end integer

--- The whole answer, and the chunks it saw with the fidelity each one was used at.
---@class ctx_lsp.ChatResult
---@field turnId string
---@field conversationId string
---@field text string
---@field reasoning? string what the model thought before it answered; no part of the text; default: ""
---@field codeBlocks? ctx_lsp.CodeBlock[]
---@field stopReason ctx_lsp.StopReason
---@field usage ctx_lsp.Usage
---@field timing ctx_lsp.Timing
---@field chunks ctx_lsp.ChunkPlan[]
---@field fidelity ctx_lsp.FidelityLabel the worst of those labels; exact where there are no chunks
---@field output? string hash of the output chunk that keeps the answer
---@field leftOutTurns? integer the oldest ones, for which the window has no room; they stay in the history; default: 0

--- A file or a selection (then with its `range`) that a turn was asked about, as its text was then.
---@class ctx_lsp.Attachment
---@field source string
---@field range? ctx_lsp.Range
---@field text string

--- A question that was answered to its end, `asked` at an ISO 8601 time.
---@class ctx_lsp.ChatTurn
---@field turnId string
---@field question string
---@field context? ctx_lsp.Attachment[]
---@field answer string
---@field reasoning? string default: ""
---@field codeBlocks? ctx_lsp.CodeBlock[] of the answer
---@field stopReason ctx_lsp.StopReason
---@field usage ctx_lsp.Usage
---@field asked string

--- A conversation in a list: how many turns it has, and when it last changed (ISO 8601).
---@class ctx_lsp.ConversationInfo
---@field conversationId string
---@field title string
---@field turns integer
---@field updated string

---@class ctx_lsp.ConversationParams
---@field conversationId? string default: "default"

--- A new conversation with the turns up to `turnId` and that one; without it, with all turns.
---@class ctx_lsp.ForkParams
---@field conversationId? string default: "default"
---@field turnId? string

---@class ctx_lsp.RenameParams
---@field conversationId? string default: "default"
---@field title string

--- What last changed comes first.
---@class ctx_lsp.ConversationsResult
---@field conversations ctx_lsp.ConversationInfo[]

---@class ctx_lsp.HistoryResult
---@field conversation ctx_lsp.ConversationInfo
---@field turns ctx_lsp.ChatTurn[]

--- A code block and the file it is for.
---
--- The block is `text` in `language`, or the one at the index `block` of what the turn `turnId` answered. The file is
--- `uri` or `path`; without either, the one that the model named.
---@class ctx_lsp.ApplyParams
---@field text? string
---@field language? string
---@field conversationId? string default: "default"
---@field turnId? string
---@field block? integer default: 0
---@field uri? string
---@field path? string

--- `edit` is a WorkspaceEdit, for the client to apply. `summary` says for people what changes in `uri`.
---@class ctx_lsp.ApplyResult
---@field uri string
---@field how ctx_lsp.ApplyHow
---@field summary string
---@field edit any

--- What could be in the prompt and isn't, and why. `tokens` are null where nobody counted them.
---@class ctx_lsp.LeftOut
---@field source string
---@field tokens? integer
---@field reason string

--- The context's chunks in prompt order; `activeTokens` of `limit` are taken by the active ones.
---
--- Token counts are `estimated` where the engine can't be asked for them.
---@class ctx_lsp.ChunksResult
---@field chunks ctx_lsp.ChunkInfo[]
---@field activeTokens integer
---@field limit integer
---@field estimated? boolean default: false
---@field leftOut? ctx_lsp.LeftOut[]

--- The chunk list changed: ask for it anew with `ctx/chunks` where it is shown.
---@class ctx_lsp.ChunksDidChange
---@field activeTokens integer
---@field limit integer

--- The documents that the user can see or go to: every URI that has a tab or an editor.
---@class ctx_lsp.VisibleEditorsParams
---@field uris string[]

--- How far background prefill has come, in tokens of the active composition. It is in the phase `populate` while
--- chunks still lack KV, and in `refine` while near KV is replaced by exact.
---@class ctx_lsp.PopulateState
---@field done integer
---@field total integer
---@field phase? ctx_lsp.PopulatePhase default: "populate"

--- The server's view of the engine. `starting`: there is no process yet; `loading`: it loads its model;
--- `failed`: it could not start, the next request tries again; `stopped`: it ended, the next request starts it.
---@class ctx_lsp.Status
---@field state ctx_lsp.ServerState
---@field message string for people
---@field model? string
---@field device? string
---@field progress? number 0 to 1 while starting or loading, where known
---@field activeTokens? integer default: 0
---@field limit? integer default: 0
---@field populate? ctx_lsp.PopulateState
---@field logFile? string the server's own

--- The question that would be asked, in the conversation and as it would be asked.
---@class ctx_lsp.PlanParams
---@field text string
---@field conversationId? string default: "default"
---@field context? ctx_lsp.TurnContext
---@field fidelity? ctx_lsp.Fidelity
---@field latencyBudgetMs? number

--- A line that begins with a slash, e.g. `/load src/*.py`.
---@class ctx_lsp.SlashParams
---@field text string
---@field conversationId? string default: "default"

--- The line up to the cursor.
---@class ctx_lsp.SlashCompleteParams
---@field text string

---@class ctx_lsp.SlashItem
---@field label string
---@field insertText string
---@field detail string

--- `insertText` replaces the line from `start` to the cursor; `start` counts in the agreed position encoding.
---@class ctx_lsp.SlashCompleteResult
---@field items ctx_lsp.SlashItem[]
---@field start integer

--- What every command and slash command answers: Markdown for people, `data` for programs.
---@class ctx_lsp.CommandResult
---@field markdown string
---@field data any

--- Files, folders and globs, relative to the first workspace folder or absolute.
---
--- `discover` asks for the workspace's own files as well: as many as the server finds worth loading within a token
--- budget, so that a client can open a folder without naming a file.
---@class ctx_lsp.LoadParams
---@field paths? string[]
---@field discover? boolean default: false

---@class ctx_lsp.Skipped
---@field path string
---@field reason string

---@class ctx_lsp.LoadResult
---@field loaded ctx_lsp.ChunkInfo[]
---@field skipped ctx_lsp.Skipped[]

--- Chunks by source, path, URI, `#tag`, hash, unique beginning of a hash (4 or more digits), glob or folder.
---@class ctx_lsp.RefsParams
---@field refs string[]

--- Chunks to prefill; null means the whole active composition.
---@class ctx_lsp.PopulateParams
---@field refs? string[]

--- The parts are the chunks of `refs` and behind them the `selections`, which become chunks for it.
---@class ctx_lsp.ComposeParams
---@field refs? string[]
---@field selections? ctx_lsp.Selection[]
---@field name string

--- `position` counts from 0; negative ones from the end, where -1 is the last.
---@class ctx_lsp.MoveParams
---@field refs string[]
---@field position integer

---@class ctx_lsp.TagParams
---@field refs string[]
---@field tags string[]

--- `all`: chunks and the conversation; `outputs`: chunks that keep answers; `conversation`: its history.
---@class ctx_lsp.ClearParams
---@field scope? ctx_lsp.ClearScope default: "all"
---@field conversationId? string default: "default"

---@class ctx_lsp.ChunkList
---@field chunks ctx_lsp.ChunkInfo[]

---@class ctx_lsp.DeleteResult
---@field hashes string[]

---@class ctx_lsp.ClearResult
---@field scope ctx_lsp.ClearScope

--- The name of a context that is saved, per workspace.
---@class ctx_lsp.SavedParams
---@field name string

--- A context that was saved, with how many chunks and how many tokens of active ones; `saved` as ISO 8601 has it.
---@class ctx_lsp.SavedInfo
---@field name string
---@field saved string
---@field chunks integer
---@field activeTokens integer

--- The last saved first.
---@class ctx_lsp.SavedList
---@field contexts ctx_lsp.SavedInfo[]

--- The chunks that were saved, as they are now. In `changed` are sources that have another text by now, in
--- `recovered` those that were gone and came back as they were saved, in `lost` those that could not be brought back.
---@class ctx_lsp.RestoreResult
---@field name string
---@field chunks ctx_lsp.ChunkInfo[]
---@field changed string[]
---@field recovered string[]
---@field lost string[]

--- What the engine has counted since it started, over all contexts.
---@class ctx_lsp.EngineStats
---@field tokensPrefilled integer
---@field tokensDecoded integer
---@field running integer answers that are being generated
---@field queued integer questions that wait
---@field contexts integer
---@field segments integer runs of tokens with KV
---@field blocksUsed integer
---@field blocksTotal integer
---@field blockSize integer tokens of KV in a block

--- Numbers of this context; `engine` is null where the engine doesn't count.
---@class ctx_lsp.StatsResult
---@field chunks integer
---@field activeChunks integer
---@field tokens integer
---@field activeTokens integer
---@field warmTokens integer of the active ones
---@field limit integer
---@field engine? ctx_lsp.EngineStats

---@class ctx_lsp.SlashUsage
---@field name string
---@field usage string
---@field summary string

---@class ctx_lsp.HelpResult
---@field commands ctx_lsp.SlashUsage[]

--- A `ctx:` URI.
---@class ctx_lsp.ContentParams
---@field uri string

--- A `ctx:` document; `languageId` as LSP has them.
---@class ctx_lsp.ContentResult
---@field text string
---@field languageId string

--- What becomes a chunk, called `name`, or by its document and lines.
---@class ctx_lsp.AddSelectionParams
---@field uri string
---@field range ctx_lsp.Range
---@field name? string

--- The code, or a `problem` with it, that is to be explained.
---@class ctx_lsp.ExplainParams
---@field uri string
---@field range ctx_lsp.Range
---@field problem? string

--- A `ctx:` URI.
---@class ctx_lsp.ShowParams
---@field uri string

--- Whether the client has opened it.
---@class ctx_lsp.ShowResult
---@field shown boolean

local M = {}

--- Of the protocol: the server's is `capabilities.experimental.ctx.version`.
M.version = 1

M.requests = {
  chat = "ctx/chat", -- ChatParams -> ChatResult
  chatConversations = "ctx/chat/conversations", -- NoParams -> ConversationsResult
  chatHistory = "ctx/chat/history", -- ConversationParams -> HistoryResult
  chatFork = "ctx/chat/fork", -- ForkParams -> ConversationInfo
  chatRename = "ctx/chat/rename", -- RenameParams -> ConversationInfo
  chatDelete = "ctx/chat/delete", -- ConversationParams -> ConversationInfo
  chatApply = "ctx/chat/apply", -- ApplyParams -> ApplyResult
  chunks = "ctx/chunks", -- NoParams -> ChunksResult
  status = "ctx/status", -- NoParams -> Status
  plan = "ctx/plan", -- PlanParams -> Plan
  slash = "ctx/slash", -- SlashParams -> CommandResult
  slashComplete = "ctx/slash/complete", -- SlashCompleteParams -> SlashCompleteResult
  content = "ctx/content", -- ContentParams -> ContentResult
}

M.notifications = {
  chatDelta = "ctx/chat/delta", -- ChatDelta
  chunksDidChange = "ctx/chunks/didChange", -- ChunksDidChange
  editorsDidChangeVisible = "ctx/editors/didChangeVisible", -- VisibleEditorsParams
  statusDidChange = "ctx/status/didChange", -- Status
}

M.commands = {
  load = "ctx.load", -- LoadParams -> LoadResult
  context = "ctx.context", -- NoParams -> ChunksResult
  activate = "ctx.activate", -- RefsParams -> ChunkList
  deactivate = "ctx.deactivate", -- RefsParams -> ChunkList
  pin = "ctx.pin", -- RefsParams -> ChunkList
  unpin = "ctx.unpin", -- RefsParams -> ChunkList
  populate = "ctx.populate", -- PopulateParams -> Plan
  compose = "ctx.compose", -- ComposeParams -> ChunkInfo
  move = "ctx.move", -- MoveParams -> ChunksResult
  tag = "ctx.tag", -- TagParams -> ChunkList
  save = "ctx.save", -- SavedParams -> SavedInfo
  restore = "ctx.restore", -- SavedParams -> RestoreResult
  saved = "ctx.saved", -- NoParams -> SavedList
  forget = "ctx.forget", -- SavedParams -> SavedInfo
  plan = "ctx.plan", -- PlanParams -> Plan
  stats = "ctx.stats", -- NoParams -> StatsResult
  delete = "ctx.delete", -- RefsParams -> DeleteResult
  clear = "ctx.clear", -- ClearParams -> ClearResult
  addSelection = "ctx.addSelection", -- AddSelectionParams -> ChunkInfo
  explain = "ctx.explain", -- ExplainParams -> ChatResult
  show = "ctx.show", -- ShowParams -> ShowResult
}

return M

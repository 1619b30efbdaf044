"""The Agent Client Protocol on the same core as the language server: `ctx-lsp acp`.

Sessions, chats and commands are the core's; here is only how they are spoken of to editors such as Zed.
"""

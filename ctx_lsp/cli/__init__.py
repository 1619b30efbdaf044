"""The command line: `ctx-lsp` and its commands, a module each."""

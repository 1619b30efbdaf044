"""The context by standard LSP, for clients without a plugin."""

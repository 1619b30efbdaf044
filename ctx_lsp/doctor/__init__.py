"""`ctx-lsp doctor`: looks at the installation and says what to do."""

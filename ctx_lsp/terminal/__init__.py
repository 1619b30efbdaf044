"""Chat in a terminal: a client of the language server like any editor."""

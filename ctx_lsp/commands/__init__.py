"""Commands and slash commands, and what they say."""
